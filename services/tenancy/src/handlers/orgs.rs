//! Organizations.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::page;
use nitejar_common::permission::Role;
use nitejar_common::time::to_proto;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::orgs_server::Orgs;
use sqlx::types::Json;
use tonic::{Request, Response, Status};

use super::org_lives::{deletion, suspension};
use crate::Service;
use crate::creation::NewOrg;
use crate::domain::settings::{Editable, Settings};
use crate::domain::slug;
use crate::mail::{self, Mail};
use crate::store::org::OrgRow;
use crate::store::orgs::{OrgsRow, Owner};
use crate::store::receipts::ReceiptRow;
use crate::store::{members, org, orgs, receipts};

#[tonic::async_trait]
impl Orgs for Service {
    async fn create_org(&self, request: Request<pb::CreateOrgRequest>) -> Result<Response<pb::Org>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let owner = ctx.require_user()?.to_owned();
        let wish = NewOrg { owner, slug: r.slug, name: r.name, external_id: r.external_id };
        let row = Service::create_org(self, &ctx, wish, Some(self.orgs_per_person)).await?;
        let mut tx = self.db.control().await?;
        orgs::activate(tx.conn(), &row.id).await.map_err(Error::from)?;
        let row = OrgsRow { state: "active".into(), ..row };
        // As it was just written: reading it back would say nothing else.
        let made = OrgRow {
            name: row.name.clone(),
            settings: Json(Settings::default()),
            metadata: Json(BTreeMap::new()),
            external_id: row.external_id.clone(),
            version: 1,
        };
        tx.answer(&ctx, to_pb(row, made, Some(Role::Owner))).await
    }

    async fn list_orgs(
        &self,
        request: Request<pb::ListOrgsRequest>,
    ) -> Result<Response<pb::ListOrgsResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let size = page::size(r.page_size, 50, 100);
        let after = page::after(&r.page_token)?;
        let rows = orgs::of_user(&mut *self.db.control_once().await?, ctx.require_user()?, &after, size + 1)
            .await
            .map_err(Error::from)?;
        let (rows, next_page_token) = page::cut(rows, size, |(id, _)| id.clone());
        let mut list = Vec::with_capacity(rows.len());
        for (id, role) in rows {
            let mut ctx = ctx.clone().for_tenant(id.parse().map_err(Error::from)?);
            ctx.role = Role::parse(&role);
            let org = self.read(&ctx).await?;
            // It stands in the organization's own schema: each is read, whether it is the one or not.
            if r.external_id.is_empty() || org.external_id == r.external_id {
                list.push(org);
            }
        }
        Ok(Response::new(pb::ListOrgsResponse { orgs: list, next_page_token }))
    }

    async fn get_org(&self, request: Request<pb::GetOrgRequest>) -> Result<Response<pb::Org>, Status> {
        Ok(Response::new(self.read(&ctx(&request)?).await?))
    }

    async fn update_org(&self, request: Request<pb::UpdateOrgRequest>) -> Result<Response<pb::Org>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        // Before anything is locked: PostgreSQL looks through files for it.
        if let Some(zone) = r.settings.as_ref().map(|s| s.timezone.as_str()).filter(|zone| !zone.is_empty())
            && !org::is_timezone(&mut *self.db.control_once().await?, zone).await.map_err(Error::from)?
        {
            return Err(Error::invalid(
                "/settings/timezone",
                "must be an IANA time zone, such as Europe/Berlin",
            )
            .into());
        }
        let mut tx = self.db.tenant(&ctx).await?;
        let mut row = org::lock(tx.conn()).await.map_err(Error::from)?;
        if !r.etag.is_empty() && r.etag != etag(row.version) {
            return Err(Error::new(
                Code::EtagMismatch,
                "It changed since you read it. Read it again, then repeat.",
            )
            .into());
        }
        let mask = r.update_mask.map(|m| m.paths).unwrap_or_default();
        let wish = Editable {
            name: r.name,
            settings: r
                .settings
                .map(|s| Settings {
                    timezone: s.timezone,
                    billing_email: s.billing_email,
                    job_timeout_seconds: s.job_timeout_seconds,
                })
                .unwrap_or_default(),
            metadata: r.metadata.into_iter().collect(),
            external_id: r.external_id,
        };
        let before = Editable {
            name: row.name.clone(),
            settings: row.settings.0.clone(),
            metadata: row.metadata.0.clone(),
            external_id: row.external_id.clone(),
        };
        let mut after = before.clone();
        after.apply(&wish, &mask)?;
        if after != before {
            row = OrgRow {
                name: after.name,
                settings: Json(after.settings),
                metadata: Json(after.metadata),
                external_id: after.external_id,
                version: row.version + 1,
            };
            org::save(tx.conn(), &row).await.map_err(Error::from)?;
            let details = [("fields", mask.join(","))];
            let target = ("org", ctx.tenant()?.as_str());
            nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "org.updated", target, &details).await?;
        }
        tx.commit().await?;
        Ok(Response::new(self.read(&ctx).await?))
    }

    async fn lookup_org(
        &self,
        request: Request<pb::LookupOrgRequest>,
    ) -> Result<Response<pb::LookupOrgResponse>, Status> {
        let ctx = ctx(&request)?;
        let asked = request.into_inner().slug;
        let found = orgs::by_slug(&mut *self.db.control_once().await?, &asked, ctx.require_user()?)
            .await
            .map_err(Error::from)?;
        let (org_id, slug) =
            found.ok_or_else(|| Error::not_found(format!("organization {asked} of yours")))?;
        let moved = slug != asked;
        Ok(Response::new(pb::LookupOrgResponse { org_id, slug, moved }))
    }

    async fn rename_org(&self, request: Request<pb::RenameOrgRequest>) -> Result<Response<pb::Org>, Status> {
        let ctx = ctx(&request)?;
        let new = request.into_inner().slug;
        slug::check(&new)?;
        let org = ctx.tenant()?;
        let own = self.own_row(&ctx).await?;
        let mut tx = self.db.control().await?;
        let row = orgs::lock(tx.conn(), org.as_str()).await.map_err(Error::from)?;
        let mut row = row.ok_or_else(|| Error::not_found(format!("organization {org}")))?;
        if row.slug != new {
            if !orgs::take_slug(tx.conn(), &row.id, &new, self.clock.now()).await.map_err(Error::from)? {
                return Err(slug::is_taken(&new).into());
            }
            if orgs::count_slugs(tx.conn(), &row.id).await.map_err(Error::from)? > slug::MOST_OLD + 1 {
                let detail =
                    format!("An organization keeps {} old slugs. Take one of them back.", slug::MOST_OLD);
                return Err(Error::new(Code::Conflict, detail).into());
            }
            let details = [("from", row.slug), ("to", new.clone())];
            nitejar_db::audit::push_of(&mut tx, &ctx, &*self.clock, org, "org.renamed", &details).await?;
            row.slug = new;
        }
        tx.answer(&ctx, to_pb(row, own, ctx.role)).await
    }

    async fn delete_org(&self, request: Request<pb::DeleteOrgRequest>) -> Result<Response<pb::Org>, Status> {
        let ctx = ctx(&request)?;
        let slug = request.into_inner().slug;
        let (now, window, by) = (self.clock.now(), self.deletion.recovery, ctx.actor.id.clone());
        let details = [("purge_after", (now + window).to_rfc3339())];
        let owners = self.owners(&ctx).await?;
        let change = self.change_life(&ctx, "org.deletion_scheduled", &details, |org| {
            if org.slug != slug {
                return Err(Error::invalid(
                    "/slug",
                    format!("must be the organization's slug, {}", org.slug),
                ));
            }
            org.schedule_deletion(&by, now, window)
        });
        let (mut tx, row) = change.await?;
        if row.deletion_requested_at == Some(now) {
            for owner in &owners {
                let mail = Mail::deletion_scheduled(&owner.email, &row.slug, now + window, &self.public_url);
                mail::push(tx.conn(), &ctx, self, &mail).await?;
            }
        }
        tx.commit().await?;
        self.lives_changed.notify_one();
        Ok(Response::new(self.read(&ctx).await?))
    }

    async fn restore_org(
        &self,
        request: Request<pb::RestoreOrgRequest>,
    ) -> Result<Response<pb::Org>, Status> {
        let ctx = ctx(&request)?;
        let own = self.own_row(&ctx).await?;
        let (tx, row) = self.change_life(&ctx, "org.restored", &[], OrgsRow::restore).await?;
        // Its last owner's account may have ended meanwhile: nobody could ever lead it.
        if self.owners(&ctx).await?.is_empty() {
            let detail = "Nobody owns this organization any more, so it can't be restored.";
            return Err(Error::new(Code::Conflict, detail).into());
        }
        let answer = tx.answer(&ctx, to_pb(row, own, ctx.role)).await;
        self.lives_changed.notify_one();
        answer
    }

    async fn get_purge_receipt(
        &self,
        request: Request<pb::GetPurgeReceiptRequest>,
    ) -> Result<Response<pb::PurgeReceipt>, Status> {
        let ctx = ctx(&request)?;
        let org = &request.get_ref().purged_org_id;
        let found = receipts::get(&mut *self.db.control_once().await?, org, ctx.require_user()?)
            .await
            .map_err(Error::from)?;
        let found = found.ok_or_else(|| Error::not_found(format!("receipt of {org} for you")))?;
        Ok(Response::new(receipt_to_pb(found)))
    }

    async fn list_receipt_keys(
        &self,
        _: Request<pb::ListReceiptKeysRequest>,
    ) -> Result<Response<pb::ListReceiptKeysResponse>, Status> {
        let keys = self.receipt_keys.iter().cloned();
        let keys = keys.map(|(id, public_key)| pb::ReceiptKey { id, public_key }).collect();
        Ok(Response::new(pb::ListReceiptKeysResponse { keys }))
    }
}

fn etag(version: i64) -> String {
    format!("v{version}")
}

pub(crate) fn receipt_to_pb(row: ReceiptRow) -> pb::PurgeReceipt {
    let signature = STANDARD.encode(row.signature);
    pb::PurgeReceipt { payload: row.payload, signature, key_id: row.key_id }
}

impl Service {
    /// Who owns the context's organization.
    pub(crate) async fn owners(&self, ctx: &RequestCtx) -> Result<Vec<Owner>> {
        let mut tx = self.db.tenant_read(ctx).await?;
        let owners = members::owners(tx.conn()).await?;
        tx.commit().await?;
        Ok(owners)
    }

    /// The context's organization as its member sees it.
    async fn read(&self, ctx: &RequestCtx) -> Result<pb::Org> {
        let id = ctx.tenant()?.as_str();
        let life = orgs::get(&mut *self.db.control_once().await?, id).await?;
        let life = life.ok_or_else(|| Error::not_found(format!("organization {id}")))?;
        Ok(to_pb(life, self.own_row(ctx).await?, ctx.role))
    }

    /// What the organization's own schema says of it.
    async fn own_row(&self, ctx: &RequestCtx) -> Result<OrgRow> {
        let mut tx = self.db.tenant_read(ctx).await?;
        let row = org::get(tx.conn()).await?;
        tx.commit().await?;
        Ok(row)
    }
}

fn to_pb(life: OrgsRow, row: OrgRow, role: Option<Role>) -> pb::Org {
    let settings = row.settings.0;
    pb::Org {
        suspension: suspension(&life),
        deletion: deletion(&life),
        id: life.id,
        slug: life.slug,
        name: row.name,
        metadata: row.metadata.0.into_iter().collect(),
        external_id: row.external_id,
        state: life.state,
        settings: Some(pb::OrgSettings {
            timezone: settings.timezone,
            billing_email: settings.billing_email,
            job_timeout_seconds: settings.job_timeout_seconds,
        }),
        etag: etag(row.version),
        my_role: role.map(Role::as_str).unwrap_or_default().to_owned(),
        created_at: Some(to_proto(life.created_at)),
    }
}

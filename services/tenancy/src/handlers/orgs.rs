//! Organizations.

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

use crate::Service;
use crate::domain::settings::{Editable, Settings};
use crate::store::org::OrgRow;
use crate::store::orgs::OrgsRow;
use crate::store::{org, orgs};

#[tonic::async_trait]
impl Orgs for Service {
    async fn create_org(&self, request: Request<pb::CreateOrgRequest>) -> Result<Response<pb::Org>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let row = Service::create_org(self, &ctx, &r.slug, &r.name).await?;
        let mut tx = self.db.control().await?;
        orgs::activate(tx.conn(), &row.id).await.map_err(Error::from)?;
        let row = OrgsRow { state: "active".into(), ..row };
        // As it was just written: reading it back would say nothing else.
        let made = OrgRow { name: row.name.clone(), settings: Json(Settings::default()), version: 1 };
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
            list.push(self.read(&ctx).await?);
        }
        Ok(Response::new(pb::ListOrgsResponse { orgs: list, next_page_token }))
    }

    async fn get_org(&self, request: Request<pb::GetOrgRequest>) -> Result<Response<pb::Org>, Status> {
        Ok(Response::new(self.read(&ctx(&request)?).await?))
    }

    async fn update_org(&self, request: Request<pb::UpdateOrgRequest>) -> Result<Response<pb::Org>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
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
        };
        let before = Editable { name: row.name.clone(), settings: row.settings.0.clone() };
        let mut after = before.clone();
        after.apply(&wish, &mask)?;
        if after != before {
            row = OrgRow { name: after.name, settings: Json(after.settings), version: row.version + 1 };
            org::save(tx.conn(), &row).await.map_err(Error::from)?;
            let details = [("fields", mask.join(","))];
            let target = ("org", ctx.tenant()?.as_str());
            nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "org.updated", target, &details).await?;
        }
        tx.commit().await?;
        Ok(Response::new(self.read(&ctx).await?))
    }
}

fn etag(version: i64) -> String {
    format!("v{version}")
}

impl Service {
    /// The context's organization as its member sees it.
    async fn read(&self, ctx: &RequestCtx) -> Result<pb::Org> {
        let id = ctx.tenant()?.as_str();
        let life = orgs::get(&mut *self.db.control_once().await?, id).await?;
        let life = life.ok_or_else(|| Error::not_found(format!("organization {id}")))?;
        let mut tx = self.db.tenant_read(ctx).await?;
        let row = org::get(tx.conn()).await?;
        tx.commit().await?;
        Ok(to_pb(life, row, ctx.role))
    }
}

fn to_pb(life: OrgsRow, row: OrgRow, role: Option<Role>) -> pb::Org {
    let settings = row.settings.0;
    pb::Org {
        id: life.id,
        slug: life.slug,
        name: row.name,
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

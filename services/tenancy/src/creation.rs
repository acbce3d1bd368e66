//! Creating an organization in all services, and finishing what was left half-way. See `README.md` for the steps.

use std::time::Duration;

use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::client::Upstream;
use nitejar_common::id::OrgId;
use nitejar_common::permission::Role;
use nitejar_proto::common::v1::ProvisionTenantRequest;
use nitejar_proto::common::v1::tenants_client::TenantsClient;
use tokio_util::sync::CancellationToken;

use crate::Service;
use crate::domain::{settings, slug};
use crate::store::members::MemberRow;
use crate::store::orgs::OrgsRow;
use crate::store::{org, orgs, users};

/// An organization to create.
pub(crate) struct NewOrg {
    /// `user_…`
    pub(crate) owner: String,
    pub(crate) slug: String,
    pub(crate) name: String,
    /// Empty: none.
    pub(crate) external_id: String,
}

impl Service {
    /// Creates an organization up to its activation, or goes on creating it when it is asked for again. `most`: refused to an owner
    /// of so many.
    pub(crate) async fn create_org(
        &self,
        ctx: &RequestCtx,
        wish: NewOrg,
        most: Option<i64>,
    ) -> Result<OrgsRow> {
        settings::check_name(&wish.name)?;
        settings::check_external_id(&wish.external_id)?;
        slug::check(&wish.slug)?;
        let wish = OrgsRow {
            id: OrgId::new(&*self.clock).to_string(),
            slug: wish.slug,
            name: wish.name,
            external_id: wish.external_id,
            created_by: wish.owner,
            state: "provisioning".into(),
            created_at: self.clock.now(),
            asked_with: ctx.idempotency.as_ref().map(|i| [i.id, i.request].concat()),
            ..OrgsRow::default()
        };
        let row = self.reserve(&wish, most).await?.ok_or_else(|| slug::is_taken(&wish.slug))?;
        // A creation that was finished for a caller who did not hear of it: the same request comes again.
        let young = row.created_at > self.clock.now() - nitejar_common::idempotency::KEPT;
        let again = young && wish.asked_with.is_some() && row.asked_with == wish.asked_with;
        let ours = row.created_by == wish.created_by && (row.state == "provisioning" || again);
        if row.id != wish.id && !ours {
            return Err(slug::is_taken(wish.slug.as_str()));
        }
        self.advance_creation(ctx, &row).await?;
        Ok(row)
    }

    /// Takes the slug, unless the owner has as many organizations as they may. One after the other: the person is locked.
    async fn reserve(&self, wish: &OrgsRow, most: Option<i64>) -> Result<Option<OrgsRow>> {
        let mut tx = self.db.control().await?;
        users::lock(tx.conn(), &wish.created_by).await?;
        let owned = orgs::owned(tx.conn(), &wish.created_by).await?;
        let row = orgs::reserve(tx.conn(), wish).await?;
        // What there is already, and is asked for once more, is not one more.
        let new = row.as_ref().is_some_and(|row| row.id == wish.id);
        if let Some(most) = most.filter(|most| new && owned >= *most) {
            let detail =
                format!("You own {owned} organizations; with {most} nobody makes more. Hand one over.");
            return Err(Error::new(Code::TooManyOrgs, detail));
        }
        tx.commit().await?;
        Ok(row)
    }

    /// Takes a creation up to its activation, from wherever it is.
    async fn advance_creation(&self, ctx: &RequestCtx, row: &OrgsRow) -> Result<()> {
        let org_id: OrgId = row.id.parse()?;
        let ctx = ctx.clone().for_tenant(org_id.clone());
        let own = async {
            let ((), owner) =
                futures_util::future::try_join(self.db.provision(&org_id), self.creator(row)).await?;
            self.found(&ctx, row, &owner).await
        };
        let others = self.tenants_of.iter().map(|up| self.provision_at(up, &org_id, &ctx));
        let (own, others) = futures_util::future::join(own, futures_util::future::join_all(others)).await;
        own?;
        others.into_iter().collect::<Result<Vec<()>>>()?;
        Ok(())
    }

    async fn creator(&self, row: &OrgsRow) -> Result<MemberRow> {
        let user = users::get(&mut *self.db.control_once().await?, &row.created_by).await?;
        let user = user.ok_or_else(|| Error::internal("the creator is gone"))?;
        Ok(MemberRow {
            user_id: user.id,
            email: user.email,
            name: user.name,
            role: Role::Owner.as_str().into(),
            joined_at: row.created_at,
        })
    }

    /// Owner, data key and audit event, together, once.
    async fn found(&self, ctx: &RequestCtx, row: &OrgsRow, owner: &MemberRow) -> Result<()> {
        let (_, data_key) = self.master.new_data_key(ctx.tenant()?)?;
        let mut tx = self.db.tenant(ctx).await?;
        if org::found(
            tx.conn(),
            &org::Founding {
                name: &row.name,
                external_id: &row.external_id,
                owner,
                data_key: &data_key,
                master: &self.master.id(),
            },
        )
        .await?
        {
            let details = [("slug", row.slug.clone()), ("name", row.name.clone())];
            let target = ("org", row.id.as_str());
            nitejar_db::audit::push(tx.conn(), ctx, &*self.clock, "org.created", target, &details).await?;
        }
        tx.commit().await
    }

    async fn provision_at(&self, upstream: &Upstream, org: &OrgId, ctx: &RequestCtx) -> Result<()> {
        let me = RequestCtx::service("tenancy", &*self.clock).with_request_id(&ctx.request_id);
        let request = upstream.request(&me, ProvisionTenantRequest { org_id: org.to_string() })?;
        TenantsClient::new(upstream.channel()).provision_tenant(request).await?;
        Ok(())
    }

    /// Finishes creations that a crash, or a service that did not answer, left half-way.
    pub(crate) async fn finish_creations(&self, stop: CancellationToken) -> Result<()> {
        while !stop.is_cancelled() {
            if let Err(error) = self.finish_once().await {
                tracing::warn!(error = %error.log_text(), "creations are not finished; trying again");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
        Ok(())
    }

    async fn finish_once(&self) -> Result<()> {
        // Younger ones are probably still under way; doing a step twice would only be waste.
        let before = self.clock.now() - chrono::Duration::seconds(3);
        let mut tx = self.db.control().await?;
        let left = orgs::unfinished(tx.conn(), before).await?;
        tx.commit().await?;
        for row in left {
            // The audit event names who asked for it.
            let mut ctx = RequestCtx::service("tenancy", &*self.clock);
            ctx.actor.kind = nitejar_common::ActorKind::User;
            ctx.actor.id.clone_from(&row.created_by);
            let finished = async {
                self.advance_creation(&ctx, &row).await?;
                orgs::activate(&mut *self.db.control_once().await?, &row.id).await.map_err(Error::from)
            };
            if let Err(error) = finished.await {
                tracing::warn!(org = row.id, error = %error.log_text(), "creation is not finished; trying again");
            }
        }
        Ok(())
    }
}

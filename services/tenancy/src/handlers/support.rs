//! Support access: asked for by operators, answered by owners.

use chrono::{DateTime, Utc};
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::id::GrantId;
use nitejar_common::time::to_proto;
use nitejar_common::{OrgState, RequestCtx, page};
use nitejar_db::TenantTx;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::support_server::Support;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::domain::settings::check_text;
use crate::domain::support::WAITS;
use crate::mail::{self, Mail};
use crate::store::support::{self, GrantRow};
use crate::store::{members, org, orgs};

#[tonic::async_trait]
impl Support for Service {
    async fn request_support_access(
        &self,
        request: Request<pb::RequestSupportAccessRequest>,
    ) -> Result<Response<pb::SupportGrant>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let now = self.clock.now();
        let row = GrantRow {
            id: GrantId::new(&*self.clock).to_string(),
            operator: ctx.actor.id.clone(),
            reason: check_text(r.reason, "/reason")?,
            minutes: i32::try_from(r.duration_minutes).unwrap_or(i32::MAX),
            break_glass: r.break_glass,
            state: "requested".into(),
            requested_at: now,
            decided_by: String::new(),
            decided_at: None,
            revoked_by: String::new(),
            expires_at: now + WAITS,
        };
        let mut tx = self.of_operator(&ctx).await?;
        org::lock(tx.conn()).await.map_err(Error::from)?;
        // Its owners are not to be worn down.
        if support::waits(tx.conn(), &row.operator, now).await.map_err(Error::from)? {
            return Err(Error::new(Code::Conflict, "A request of yours waits for its answer.").into());
        }
        support::insert(tx.conn(), &row).await.map_err(Error::from)?;
        let details = [
            ("reason", row.reason.clone()),
            ("minutes", row.minutes.to_string()),
            ("break_glass", row.break_glass.to_string()),
        ];
        self.tell_of_grant(&mut tx, &ctx, "support.requested", &row, &details).await?;
        tx.answer(to_pb(row, now)).await
    }

    async fn list_org_support_grants(
        &self,
        request: Request<pb::ListOrgSupportGrantsRequest>,
    ) -> Result<Response<pb::ListSupportGrantsResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.get_ref();
        let tx = self.of_operator(&ctx).await?;
        Ok(Response::new(self.grants(tx, r.page_size, &r.page_token).await?))
    }

    async fn approve_break_glass(
        &self,
        request: Request<pb::ApproveBreakGlassRequest>,
    ) -> Result<Response<pb::SupportGrant>, Status> {
        let ctx = ctx(&request)?;
        let now = self.clock.now();
        let mut tx = self.of_operator(&ctx).await?;
        let mut row = lock(&mut tx, &request.get_ref().grant_id).await?;
        if row.break_glass(&ctx.actor.id, now)? {
            support::approve(tx.conn(), &row).await.map_err(Error::from)?;
            let details = [("break_glass", "true".to_owned())];
            self.tell_of_grant(&mut tx, &ctx, "support.approved", &row, &details).await?;
        }
        tx.answer(to_pb(row, now)).await
    }

    async fn list_support_grants(
        &self,
        request: Request<pb::ListSupportGrantsRequest>,
    ) -> Result<Response<pb::ListSupportGrantsResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.get_ref();
        let tx = self.db.tenant_read(&ctx).await?;
        Ok(Response::new(self.grants(tx, r.page_size, &r.page_token).await?))
    }

    async fn approve_support_access(
        &self,
        request: Request<pb::ApproveSupportAccessRequest>,
    ) -> Result<Response<pb::SupportGrant>, Status> {
        let ctx = ctx(&request)?;
        let by = ctx.require_user()?;
        let now = self.clock.now();
        let mut tx = self.db.tenant(&ctx).await?;
        let mut row = lock(&mut tx, &request.get_ref().grant_id).await?;
        if row.approve(by, now)? {
            support::approve(tx.conn(), &row).await.map_err(Error::from)?;
            self.audit_grant(&mut tx, &ctx, "support.approved", &row, &[]).await?;
        }
        tx.answer(to_pb(row, now)).await
    }

    async fn deny_support_access(
        &self,
        request: Request<pb::DenySupportAccessRequest>,
    ) -> Result<Response<pb::SupportGrant>, Status> {
        let ctx = ctx(&request)?;
        self.end_grant(&ctx, &request.get_ref().grant_id, "support.denied", GrantRow::deny).await
    }

    async fn revoke_support_access(
        &self,
        request: Request<pb::RevokeSupportAccessRequest>,
    ) -> Result<Response<pb::SupportGrant>, Status> {
        let ctx = ctx(&request)?;
        self.end_grant(&ctx, &request.get_ref().grant_id, "support.revoked", GrantRow::revoke).await
    }
}

impl Service {
    /// Ends a grant, or a request for one, in the way that `end` knows.
    async fn end_grant(
        &self,
        ctx: &RequestCtx,
        id: &str,
        action: &str,
        end: fn(&mut GrantRow, &str, DateTime<Utc>) -> Result<bool>,
    ) -> Result<Response<pb::SupportGrant>, Status> {
        let now = self.clock.now();
        let mut tx = self.db.tenant(ctx).await?;
        let mut row = lock(&mut tx, id).await?;
        if end(&mut row, &ctx.actor.id, now)? {
            support::end(tx.conn(), &row).await.map_err(Error::from)?;
            self.audit_grant(&mut tx, ctx, action, &row, &[]).await?;
        }
        tx.answer(to_pb(row, now)).await
    }

    /// A transaction in the organization of an operator's path, if there is one for anybody: about grants, and nothing else.
    async fn of_operator(&self, ctx: &RequestCtx) -> Result<TenantTx> {
        let id = ctx.tenant()?;
        let org = orgs::get(&mut *self.db.control_once().await?, id.as_str()).await?;
        org.and_then(|org| OrgState::parse(&org.state))
            .ok_or_else(|| Error::not_found(format!("organization {id}")))?;
        self.db.tenant(ctx).await
    }

    async fn grants(
        &self,
        mut tx: TenantTx,
        size: u32,
        token: &str,
    ) -> Result<pb::ListSupportGrantsResponse> {
        let size = page::size(size, 50, 100);
        let rows = support::list(tx.conn(), &page::after(token)?, size + 1).await?;
        tx.commit().await?;
        let (rows, next_page_token) = page::cut(rows, size, |grant| grant.id.clone());
        let now = self.clock.now();
        let grants = rows.into_iter().map(|row| to_pb(row, now)).collect();
        Ok(pb::ListSupportGrantsResponse { grants, next_page_token })
    }

    async fn audit_grant(
        &self,
        tx: &mut TenantTx,
        ctx: &RequestCtx,
        action: &str,
        row: &GrantRow,
        details: &[(&str, String)],
    ) -> Result<()> {
        let mut all = vec![("operator", row.operator.clone())];
        all.extend_from_slice(details);
        let target = ("support_grant", row.id.as_str());
        nitejar_db::audit::push(tx.conn(), ctx, &*self.clock, action, target, &all).await
    }

    /// What operators did: in the log, and by mail to the owners.
    async fn tell_of_grant(
        &self,
        tx: &mut TenantTx,
        ctx: &RequestCtx,
        action: &str,
        row: &GrantRow,
        details: &[(&str, String)],
    ) -> Result<()> {
        let name = org::get(tx.conn()).await?.name;
        for owner in members::owners(tx.conn()).await? {
            let mail = match row.state.as_str() {
                "approved" => Mail::glass_broken(&owner.email, &name, row),
                _ => Mail::support_requested(&owner.email, &name, row),
            };
            mail::push(tx.conn(), ctx, self, &mail).await?;
        }
        self.audit_grant(tx, ctx, action, row, details).await
    }
}

async fn lock(tx: &mut TenantTx, id: &str) -> Result<GrantRow> {
    let row = support::lock(tx.conn(), id).await?;
    row.ok_or_else(|| Error::not_found(format!("support grant {id}")))
}

fn to_pb(row: GrantRow, now: DateTime<Utc>) -> pb::SupportGrant {
    pb::SupportGrant {
        state: row.state_at(now).to_owned(),
        id: row.id,
        operator: row.operator,
        reason: row.reason,
        duration_minutes: u32::try_from(row.minutes).unwrap_or_default(),
        break_glass: row.break_glass,
        requested_at: Some(to_proto(row.requested_at)),
        decided_by: row.decided_by,
        decided_at: row.decided_at.map(to_proto),
        revoked_by: row.revoked_by,
        expires_at: Some(to_proto(row.expires_at)),
    }
}

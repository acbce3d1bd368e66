//! Reading and verifying the log.

use nitejar_common::RequestCtx;
use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::page;
use nitejar_common::time::{from_proto, to_proto};
use nitejar_db::TenantTx;
use nitejar_proto::audit::v1 as pb;
use nitejar_proto::audit::v1::audit_events_server::AuditEvents;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::domain::chain::{Event, Head};
use crate::store::events::{self, Filter};

#[tonic::async_trait]
impl AuditEvents for Service {
    async fn list_audit_events(
        &self,
        request: Request<pb::ListAuditEventsRequest>,
    ) -> Result<Response<pb::ListAuditEventsResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let time = |at: Option<prost_types::Timestamp>, pointer: &str| match at {
            None => Ok(None),
            Some(at) => from_proto(&at).map(Some).ok_or_else(|| Error::invalid(pointer, "must be a time")),
        };
        let filter = Filter {
            action: r.action,
            actor_id: r.actor_id,
            target_id: r.target_id,
            request_id: r.request_id,
            occurred_after: time(r.occurred_after, "/occurred_after")?,
            occurred_before: time(r.occurred_before, "/occurred_before")?,
        };
        Ok(Response::new(self.list(&ctx, &filter, r.page_size, &r.page_token).await?))
    }

    async fn get_audit_event(
        &self,
        request: Request<pb::GetAuditEventRequest>,
    ) -> Result<Response<pb::AuditEvent>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().event_id;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let org = events::chain_org(tx.conn(), ctx.tenant()?.as_str()).await.map_err(Error::from)?;
        let found = events::get(tx.conn(), &org, id).await.map_err(Error::from)?;
        let event = found.ok_or_else(|| Error::not_found(format!("audit event {id}")))?;
        Ok(Response::new(to_pb(event)))
    }

    async fn verify_audit_chain(
        &self,
        request: Request<pb::VerifyAuditChainRequest>,
    ) -> Result<Response<pb::VerifyAuditChainResponse>, Status> {
        let ctx = ctx(&request)?;
        Ok(Response::new(self.verify(&ctx).await?))
    }

    async fn list_platform_audit_events(
        &self,
        request: Request<pb::ListPlatformAuditEventsRequest>,
    ) -> Result<Response<pb::ListAuditEventsResponse>, Status> {
        let ctx = Self::platform_ctx(&ctx(&request)?);
        let r = request.into_inner();
        let filter = Filter { action: r.action, ..Filter::default() };
        Ok(Response::new(self.list(&ctx, &filter, r.page_size, &r.page_token).await?))
    }
}

impl Service {
    async fn list(
        &self,
        ctx: &RequestCtx,
        filter: &Filter,
        page_size: u32,
        page_token: &str,
    ) -> Result<pb::ListAuditEventsResponse> {
        let size = page::size(page_size, 100, 500);
        let after = page::after(page_token)?;
        let after = if after.is_empty() {
            0
        } else {
            after.parse().map_err(|_| {
                Error::invalid("/page_token", "must be a next_page_token of an earlier answer")
            })?
        };
        let mut tx = self.db.tenant_read(ctx).await?;
        let org = chain_org(&mut tx, ctx).await?;
        let found = events::list(tx.conn(), &org, filter, after, size + 1).await?;
        tx.commit().await?;
        let (found, next_page_token) = page::cut(found, size, |e| e.sequence.to_string());
        Ok(pb::ListAuditEventsResponse { events: found.into_iter().map(to_pb).collect(), next_page_token })
    }

    /// In one snapshot, a thousand at a time.
    async fn verify(&self, ctx: &RequestCtx) -> Result<pb::VerifyAuditChainResponse> {
        let mut tx = self.db.tenant_read(ctx).await?;
        let org = chain_org(&mut tx, ctx).await?;
        let kept = events::head(tx.conn()).await?;
        let mut head = Head::START;
        loop {
            let page = events::list(tx.conn(), &org, &Filter::default(), head.sequence, 1000).await?;
            if page.is_empty() {
                break;
            }
            for event in &page {
                if let Err(broken) = head.check(event) {
                    return Ok(verdict(head, Some((broken.at, broken.problem))));
                }
            }
        }
        tx.commit().await?;
        let cut = (head != kept).then(|| {
            (head.sequence + 1, format!("the log ends here but its head is number {}", kept.sequence))
        });
        Ok(verdict(head, cut))
    }
}

/// The id that the chain's hashes cover. The platform's events belong to no organization.
async fn chain_org(tx: &mut TenantTx, ctx: &RequestCtx) -> Result<String> {
    let bound = ctx.tenant()?;
    if *bound == crate::platform() {
        return Ok(String::new());
    }
    Ok(events::chain_org(tx.conn(), bound.as_str()).await?)
}

fn verdict(head: Head, broken: Option<(i64, String)>) -> pb::VerifyAuditChainResponse {
    let valid = broken.is_none();
    let (broken_at, problem) = broken.map_or((None, String::new()), |(at, problem)| (Some(at), problem));
    pb::VerifyAuditChainResponse {
        valid,
        checked: head.sequence,
        head_hash: hex::encode(head.hash),
        broken_at,
        problem,
    }
}

fn to_pb(e: Event) -> pb::AuditEvent {
    pb::AuditEvent {
        id: e.id,
        org_id: e.org_id,
        sequence: e.sequence,
        occurred_at: Some(to_proto(e.occurred_at)),
        actor_kind: e.actor_kind,
        actor_id: e.actor_id,
        action: e.action,
        target_kind: e.target_kind,
        target_id: e.target_id,
        outcome: e.outcome,
        request_id: e.request_id,
        service: e.service,
        details: e.details.into_iter().collect(),
        prev_hash: e.prev_hash,
        hash: e.hash,
    }
}

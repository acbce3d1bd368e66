//! Audit events on their way: written with the change, delivered to the audit service by the outbox.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use nitejar_common::RequestCtx;
use nitejar_common::clock::Clock;
use nitejar_common::error::Result;
use nitejar_common::grpc::client::Upstream;
use nitejar_common::id::{EventId, OrgId};
use nitejar_common::time::to_proto;
use nitejar_proto::audit::v1::audit_internal_client::AuditInternalClient;
use nitejar_proto::audit::v1::{AuditEvent, RecordEventsRequest};
use prost::Message as _;
use sqlx::PgConnection;

use crate::ControlTx;
use crate::outbox::{self, Deliver, Delivery, Failure, OutboxMessage};

/// The audit service takes no more at a time.
const MOST: usize = 500;

/// The outbox topic.
pub const TOPIC: &str = "audit";

/// Builds an event of the context's actor and organization. `details` must never hold a secret.
pub fn event(
    ctx: &RequestCtx,
    clock: &dyn Clock,
    action: &str,
    target: (&str, &str),
    details: &[(&str, String)],
) -> AuditEvent {
    AuditEvent {
        id: EventId::new(clock).to_string(),
        org_id: ctx.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
        occurred_at: Some(to_proto(clock.now())),
        actor_kind: ctx.actor.kind.as_str().to_owned(),
        actor_id: ctx.actor.id.clone(),
        action: action.to_owned(),
        target_kind: target.0.to_owned(),
        target_id: target.1.to_owned(),
        outcome: "success".to_owned(),
        request_id: ctx.request_id.clone(),
        details: details.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        ..AuditEvent::default()
    }
}

/// Writes one event with the change that it tells of. On a `control` connection it must belong to no organization.
pub async fn push(
    conn: &mut PgConnection,
    ctx: &RequestCtx,
    clock: &dyn Clock,
    action: &str,
    target: (&str, &str),
    details: &[(&str, String)],
) -> Result<()> {
    push_all(conn, ctx, clock, vec![event(ctx, clock, action, target, details)]).await
}

/// Writes one event of an organization with a change of its row in `control`, which no tenant's own transaction makes.
pub async fn push_of(
    tx: &mut ControlTx,
    ctx: &RequestCtx,
    clock: &dyn Clock,
    org: &OrgId,
    action: &str,
    details: &[(&str, String)],
) -> Result<()> {
    let of_org = ctx.clone().for_tenant(org.clone());
    let event = event(&of_org, clock, action, ("org", org.as_str()), details);
    let payload = RecordEventsRequest { events: vec![event] }.encode_to_vec();
    // A key of its own: the platform's events never wait for it.
    outbox::push(tx.conn(), ctx, clock, TOPIC, org.as_str(), &payload).await
}

/// Writes several events, so many in one message as the audit service takes at a time.
pub async fn push_all(
    conn: &mut PgConnection,
    ctx: &RequestCtx,
    clock: &dyn Clock,
    events: Vec<AuditEvent>,
) -> Result<()> {
    for chunk in events.chunks(MOST) {
        let payload = RecordEventsRequest { events: chunk.to_vec() }.encode_to_vec();
        outbox::push(conn, ctx, clock, TOPIC, "", &payload).await?;
    }
    Ok(())
}

/// Delivers the topic to the audit service.
#[derive(Debug)]
pub struct AuditDelivery(Upstream);

impl AuditDelivery {
    /// To that service.
    pub fn new(audit: Upstream) -> Arc<Self> {
        Arc::new(Self(audit))
    }

    async fn send(&self, ctx: &RequestCtx, events: Vec<AuditEvent>) -> Result<()> {
        // The service acts for itself here: who did what stands in the events.
        let mut ctx = ctx.clone();
        ctx.tenant = None;
        let mut client = AuditInternalClient::new(self.0.channel());
        let request = self.0.request_within(&ctx, RecordEventsRequest { events }, Duration::from_secs(8))?;
        client.record_events(request).await?;
        Ok(())
    }
}

impl Deliver for AuditDelivery {
    fn deliver<'a>(
        &'a self,
        ctx: &'a RequestCtx,
        batch: &'a [OutboxMessage],
    ) -> BoxFuture<'a, Vec<Delivery>> {
        Box::pin(async move {
            let mut results: Vec<Delivery> = Vec::with_capacity(batch.len());
            let mut events = Vec::new();
            let mut waiting = 0;
            for message in batch {
                let new = match RecordEventsRequest::decode(message.payload.as_slice()) {
                    Ok(request) => request.events,
                    // Can't happen with what `push_all` wrote; were it sent on, it would hold back all others.
                    Err(error) => {
                        tracing::error!(%error, id = message.id, "an audit message can't be read");
                        Vec::new()
                    }
                };
                if events.len() + new.len() > MOST && waiting > 0 {
                    let sent = self.send(ctx, std::mem::take(&mut events)).await.map_err(Failure::from);
                    results.extend(std::iter::repeat_n(sent, waiting));
                    waiting = 0;
                }
                events.extend(new);
                waiting += 1;
            }
            if waiting > 0 {
                let sent = self.send(ctx, events).await.map_err(Failure::from);
                results.extend(std::iter::repeat_n(sent, waiting));
            }
            results
        })
    }
}

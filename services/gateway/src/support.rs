//! What an operator reads by a support grant stands in the organization's own log before it is read.

use std::collections::HashMap;
use std::time::Duration;

use nitejar_common::RequestCtx;
use nitejar_common::error::{Error, Result};
use nitejar_common::id::EventId;
use nitejar_common::time::to_proto;
use nitejar_proto::audit::v1::audit_internal_client::AuditInternalClient;
use nitejar_proto::audit::v1::{AuditEvent, RecordEventsRequest};

use crate::call;
use crate::service::Gateway;

/// Somebody waits: all tries together.
const DEADLINE: Duration = Duration::from_secs(5);

/// Records an access. What can't be recorded must not happen. Nobody pays for it but us: it is not metered.
pub(crate) async fn record(
    gateway: &Gateway,
    ctx: &RequestCtx,
    rpc: &str,
    path: &str,
    grant: &str,
) -> Result<()> {
    let event = AuditEvent {
        id: EventId::new(&*gateway.clock).to_string(),
        org_id: ctx.tenant()?.to_string(),
        occurred_at: Some(to_proto(gateway.clock.now())),
        actor_kind: ctx.actor.kind.as_str().to_owned(),
        actor_id: ctx.actor.id.clone(),
        action: "support.accessed".into(),
        target_kind: "rpc".into(),
        target_id: rpc.to_owned(),
        outcome: "success".into(),
        request_id: ctx.request_id.clone(),
        details: HashMap::from([
            ("grant".to_owned(), grant.to_owned()),
            ("path".to_owned(), path.to_owned()),
        ]),
        ..AuditEvent::default()
    };
    let me = RequestCtx::service("gateway", &*gateway.clock).with_request_id(&ctx.request_id);
    let audit = &gateway.services.audit;
    let events = RecordEventsRequest { events: vec![event] };
    // The event's id is the same each time: it stands there once.
    let recorded = call::repeated(|| {
        let request = audit.request(&me, events.clone());
        let mut client = AuditInternalClient::new(audit.channel());
        async move { client.record_events(request?).await }
    });
    let recorded = tokio::time::timeout(DEADLINE, recorded).await;
    let recorded = recorded.map_err(|_| Error::unavailable().because("the audit service is silent"))?;
    recorded.map(drop).map_err(|error| Error::unavailable().because(error.log_text()))
}

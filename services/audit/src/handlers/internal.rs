//! How events arrive.

use std::collections::{BTreeMap, HashSet};

use chrono::{DurationRound as _, TimeDelta};
use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::id::is_id;
use nitejar_common::time::from_proto;
use nitejar_proto::audit::v1 as pb;
use nitejar_proto::audit::v1::audit_internal_server::AuditInternal;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::domain::chain::Event;
use crate::store::events;

/// The most that one request may bring.
const MOST: usize = 500;

#[tonic::async_trait]
impl AuditInternal for Service {
    async fn record_events(
        &self,
        request: Request<pb::RecordEventsRequest>,
    ) -> Result<Response<pb::RecordEventsResponse>, Status> {
        let ctx = ctx(&request)?;
        let new = request.into_inner().events;
        if new.len() > MOST {
            return Err(Error::invalid("/events", "must be at most 500").into());
        }
        let mut by_org: BTreeMap<String, Vec<Event>> = BTreeMap::new();
        for event in new {
            let event = from_pb(event, &ctx.actor.id)?;
            by_org.entry(event.org_id.clone()).or_default().push(event);
        }
        let mut appended = 0;
        for (org, list) in by_org {
            appended += self.append(&ctx, &org, list).await?;
        }
        Ok(Response::new(pb::RecordEventsResponse { appended }))
    }
}

impl Service {
    /// Appends what is new to one chain.
    async fn append(&self, ctx: &RequestCtx, org: &str, mut list: Vec<Event>) -> Result<i64> {
        let ctx = if org.is_empty() { Self::platform_ctx(ctx) } else { ctx.clone().for_tenant(org.parse()?) };
        let mut tx = match self.db.tenant(&ctx).await {
            // Its log went with it.
            Err(error) if error.code() == Code::NotFound && self.db.was_purged(ctx.tenant()?).await? => {
                return Ok(0);
            }
            tx => tx.map_err(not_yet)?,
        };
        let mut head = events::lock_head(tx.conn()).await?;
        let ids: Vec<String> = list.iter().map(|e| e.id.clone()).collect();
        let mut known: HashSet<String> = events::known(tx.conn(), &ids).await?.into_iter().collect();
        list.retain(|e| known.insert(e.id.clone()));
        if list.is_empty() {
            return Ok(0);
        }
        let chain = match org {
            "" => String::new(),
            org => events::chain_org(tx.conn(), org).await?,
        };
        for event in &mut list {
            event.org_id.clone_from(&chain);
            head.append(event);
        }
        events::append(tx.conn(), &list, head, self.db.clock().now()).await?;
        tx.commit().await?;
        Ok(i64::try_from(list.len()).unwrap_or(i64::MAX))
    }
}

/// An organization's first events may arrive before its schema is here: they come again.
fn not_yet(error: Error) -> Error {
    if error.code() == Code::NotFound {
        Error::unavailable().because("the organization is not provisioned here yet")
    } else {
        error
    }
}

fn from_pb(e: pb::AuditEvent, service: &str) -> Result<Event> {
    if !is_id(&e.id, "evt") || !(e.org_id.is_empty() || is_id(&e.org_id, "org")) {
        return Err(Error::invalid("/events", "must have an evt_… id, and an org_… id or none"));
    }
    let at = e.occurred_at.as_ref().and_then(from_proto);
    let at = at.ok_or_else(|| Error::invalid("/events/occurred_at", "must be a time"))?;
    let outcome = if e.outcome == "denied" { "denied" } else { "success" };
    Ok(Event {
        id: e.id,
        org_id: e.org_id,
        sequence: 0,
        // What the database keeps is what the hash must cover.
        occurred_at: at.duration_trunc(TimeDelta::microseconds(1)).unwrap_or(at),
        actor_kind: bounded(e.actor_kind),
        actor_id: bounded(e.actor_id),
        action: bounded(e.action),
        target_kind: bounded(e.target_kind),
        target_id: bounded(e.target_id),
        outcome: outcome.to_owned(),
        request_id: bounded(e.request_id),
        service: service.to_owned(),
        details: e.details.into_iter().take(32).map(|(k, v)| (bounded(k), bounded(v))).collect(),
        prev_hash: String::new(),
        hash: String::new(),
    })
}

/// Texts are cut rather than refused (an event must not be lost for its length), and can't hold what Postgres can't.
fn bounded(text: String) -> String {
    text.replace('\0', "\u{fffd}").chars().take(1024).collect()
}

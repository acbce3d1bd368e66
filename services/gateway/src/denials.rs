//! Refusals go to the audit log. They have no transaction to travel with, so they wait in memory, bounded, and are sent
//! until taken; a refused caller never waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nitejar_common::RequestCtx;
use nitejar_common::clock::SharedClock;
use nitejar_common::ctx::ActorKind;
use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::client::Upstream;
use nitejar_common::id::EventId;
use nitejar_common::time::to_proto;
use nitejar_proto::audit::v1::audit_internal_client::AuditInternalClient;
use nitejar_proto::audit::v1::{AuditEvent, RecordEventsRequest};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio_util::sync::CancellationToken;

use crate::authn::Caller;

/// Waiting refusals; more are dropped, counted.
const MOST: usize = 1000;
/// The same refusal of the same actor is written so often a minute; more are counted and dropped.
const A_MINUTE: u32 = 5;

type Recent = HashMap<(String, String), (i64, u32)>;

/// Takes refusals in.
#[derive(Clone)]
pub(crate) struct Denials {
    to: mpsc::Sender<AuditEvent>,
    clock: SharedClock,
    /// (actor, RPC) → (minute, how many in it).
    recent: Arc<Mutex<Recent>>,
    dropped: Arc<AtomicU64>,
}

/// Sends them.
#[derive(Clone)]
pub(crate) struct Recorder {
    from: Arc<AsyncMutex<mpsc::Receiver<AuditEvent>>>,
    audit: Upstream,
    clock: SharedClock,
    dropped: Arc<AtomicU64>,
}

impl Denials {
    pub(crate) fn new(audit: Upstream, clock: SharedClock) -> (Self, Recorder) {
        let (to, from) = mpsc::channel(MOST);
        let dropped = Arc::new(AtomicU64::new(0));
        let denials =
            Self { to, clock: clock.clone(), recent: Arc::default(), dropped: Arc::clone(&dropped) };
        (denials, Recorder { from: Arc::new(AsyncMutex::new(from)), audit, clock, dropped })
    }

    /// Notes that somebody known was refused.
    pub(crate) fn note(
        &self,
        caller: &Caller,
        rpc: &str,
        asked: Option<&str>,
        error: &Error,
        request_id: &str,
    ) {
        if caller.actor.kind == ActorKind::Anonymous || self.too_often(&caller.actor.id, rpc) {
            return;
        }
        // It belongs where the actor is a member; what they asked for in vain is only named. An organization's key is
        // always at home somewhere; a person without a role there is noted by the platform.
        let org = match (&caller.home, caller.role, asked) {
            (Some(home), _, _) => home.clone(),
            (None, Some(_), Some(asked)) => asked.to_owned(),
            _ => String::new(),
        };
        let mut details = HashMap::from([("code".to_owned(), error.code().as_str().to_owned())]);
        if let Some(permission) = error.permission() {
            details.insert("permission".into(), permission.to_owned());
        }
        if let Some(asked) = asked.filter(|a| *a != org) {
            details.insert("organization".into(), asked.to_owned());
        }
        let event = AuditEvent {
            id: EventId::new(&*self.clock).to_string(),
            org_id: org,
            occurred_at: Some(to_proto(self.clock.now())),
            actor_kind: caller.actor.kind.as_str().to_owned(),
            actor_id: caller.actor.id.clone(),
            action: "access.denied".into(),
            target_kind: "rpc".into(),
            target_id: rpc.to_owned(),
            outcome: "denied".into(),
            request_id: request_id.to_owned(),
            details,
            ..AuditEvent::default()
        };
        if self.to.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn too_often(&self, actor: &str, rpc: &str) -> bool {
        let minute = self.clock.now().timestamp() / 60;
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() > 10_000 {
            recent.retain(|_, (m, _)| *m == minute);
        }
        let entry = recent.entry((actor.to_owned(), rpc.to_owned())).or_insert((minute, 0));
        if entry.0 != minute {
            *entry = (minute, 0);
        }
        entry.1 += 1;
        entry.1 > A_MINUTE
    }
}

impl Recorder {
    /// Sends in batches, each until it is taken.
    pub(crate) async fn run(&self, stop: CancellationToken) -> Result<()> {
        let mut from = self.from.lock().await;
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                () = stop.cancelled() => {
                    while let Ok(event) = from.try_recv() {
                        batch.push(event);
                    }
                    batch.truncate(500);
                    if !batch.is_empty() {
                        self.send(&batch).await?;
                    }
                    return Ok(());
                }
                count = from.recv_many(&mut batch, 500) => if count == 0 { return Ok(()) },
            }
            let mut wait = Duration::from_millis(200);
            while let Err(error) = self.send(&batch).await {
                tracing::warn!(error = %error.log_text(), waiting = batch.len(), "refusals are not audited yet");
                if stop.is_cancelled() {
                    return Err(error);
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(10));
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                tracing::error!(dropped, "refusals were dropped: more came than the audit service took");
            }
        }
    }

    async fn send(&self, batch: &[AuditEvent]) -> Result<()> {
        let me = RequestCtx::service("gateway", &*self.clock);
        let request = self.audit.request(&me, RecordEventsRequest { events: batch.to_vec() })?;
        AuditInternalClient::new(self.audit.channel()).record_events(request).await?;
        Ok(())
    }
}

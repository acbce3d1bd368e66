//! Refusals go to the audit log. They have no transaction to travel with, so they wait in memory, bounded, and are sent
//! until taken; a refused caller never waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nitejar_common::RequestCtx;
use nitejar_common::clock::SharedClock;
use nitejar_common::ctx::{Actor, ActorKind};
use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::client::Upstream;
use nitejar_common::id::EventId;
use nitejar_common::time::to_proto;
use nitejar_proto::audit::v1::audit_internal_client::AuditInternalClient;
use nitejar_proto::audit::v1::{AuditEvent, RecordEventsRequest};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::authn::Caller;

/// Waiting refusals; more are dropped, counted.
const MOST: usize = 1000;
/// The same refusal of the same actor is written so often a minute. More are one event, with their number.
const A_MINUTE: u32 = 5;
/// How often it is looked for minutes that are over.
const SETTLE: Duration = Duration::from_secs(10);
/// Actors and RPCs that are counted at a time.
const COUNTED: usize = 10_000;

/// (organization, actor, RPC) → what happened in that minute: nobody's refusals in one organization are counted in another's log.
type Recent = HashMap<(String, String, String), Counted>;

/// Refusals of one actor and RPC in one minute.
struct Counted {
    minute: i64,
    seen: u32,
    /// The last one that was not written by itself.
    last: Option<AuditEvent>,
}

impl Counted {
    /// The event that tells of those that were not written by themselves.
    fn summary(self) -> Option<AuditEvent> {
        let mut event = self.last?;
        event.details.insert("count".into(), (self.seen - A_MINUTE).to_string());
        Some(event)
    }
}

/// Takes refusals in.
#[derive(Clone)]
pub(crate) struct Denials {
    to: mpsc::Sender<AuditEvent>,
    clock: SharedClock,
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
    denials: Denials,
}

impl Denials {
    pub(crate) fn new(audit: Upstream, clock: SharedClock) -> (Self, Recorder) {
        let (to, from) = mpsc::channel(MOST);
        let dropped = Arc::new(AtomicU64::new(0));
        let denials =
            Self { to, clock: clock.clone(), recent: Arc::default(), dropped: Arc::clone(&dropped) };
        let from = Arc::new(AsyncMutex::new(from));
        (denials.clone(), Recorder { from, audit, clock, dropped, denials })
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
        if caller.actor.kind == ActorKind::Anonymous {
            return;
        }
        // It belongs where the actor is a member; what they asked for in vain is only named. An organization's key is
        // always at home somewhere; a person without a role there is noted by the platform.
        let org = match (&caller.home, caller.role, asked) {
            (Some(home), _, _) => home.clone(),
            (None, Some(_), Some(asked)) => asked.to_owned(),
            _ => String::new(),
        };
        self.add(&caller.actor, org, rpc, asked, error, request_id);
    }

    /// Notes that a service refused somebody whom we let through: what it looks at is not known here. It belongs to the
    /// organization that the request was in, also when an operator asked.
    pub(crate) fn note_answer(&self, ctx: &RequestCtx, rpc: &str, error: &Error) {
        let denied = error.code().grpc() == tonic::Code::PermissionDenied;
        if !denied || ctx.actor.kind == ActorKind::Anonymous {
            return;
        }
        let org = ctx.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        self.add(&ctx.actor, org, rpc, None, error, &ctx.request_id);
    }

    fn add(
        &self,
        actor: &Actor,
        org: String,
        rpc: &str,
        asked: Option<&str>,
        error: &Error,
        request_id: &str,
    ) {
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
            actor_kind: actor.kind.as_str().to_owned(),
            actor_id: actor.id.clone(),
            action: "access.denied".into(),
            target_kind: "rpc".into(),
            target_id: rpc.to_owned(),
            outcome: "denied".into(),
            request_id: request_id.to_owned(),
            details,
            ..AuditEvent::default()
        };
        let (now_due, over) = self.count(event);
        for event in now_due.into_iter().chain(over) {
            self.send(event);
        }
    }

    fn send(&self, event: AuditEvent) {
        if self.to.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is to be written of a refusal: itself, if it is one of the first of its minute, and what was only counted in an
    /// earlier one.
    fn count(&self, event: AuditEvent) -> (Option<AuditEvent>, Vec<AuditEvent>) {
        let minute = self.clock.now().timestamp() / 60;
        let key = (event.org_id.clone(), event.actor_id.clone(), event.target_id.clone());
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut over = Vec::new();
        if recent.len() >= COUNTED || recent.get(&key).is_some_and(|c| c.minute != minute) {
            over = take_old(&mut recent, minute);
        }
        if recent.len() >= COUNTED && !recent.contains_key(&key) {
            return (Some(event), over);
        }
        let counted = recent.entry(key).or_insert(Counted { minute, seen: 0, last: None });
        counted.seen += 1;
        if counted.seen <= A_MINUTE {
            return (Some(event), over);
        }
        counted.last = Some(event);
        (None, over)
    }

    /// What was only counted in minutes that are over.
    fn over(&self, all: bool) -> Vec<AuditEvent> {
        let minute = if all { i64::MAX } else { self.clock.now().timestamp() / 60 };
        take_old(&mut self.recent.lock().unwrap_or_else(PoisonError::into_inner), minute)
    }
}

/// Forgets minutes before this one; answers what is to be written of them.
fn take_old(recent: &mut Recent, minute: i64) -> Vec<AuditEvent> {
    let old: Vec<_> = recent.iter().filter(|(_, c)| c.minute < minute).map(|(key, _)| key.clone()).collect();
    old.iter().filter_map(|key| recent.remove(key)?.summary()).collect()
}

impl Recorder {
    /// Sends in batches, each until it is taken.
    pub(crate) async fn run(&self, stop: CancellationToken) -> Result<()> {
        self.run_settling(SETTLE, stop).await
    }

    async fn run_settling(&self, every: Duration, stop: CancellationToken) -> Result<()> {
        let mut from = self.from.lock().await;
        // Made once: a sleep of each turn would begin anew with every refusal, and never end while they go on.
        let mut settle = interval_at(Instant::now() + every, every);
        settle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                _ = settle.tick() => batch = self.denials.over(false),
                () = stop.cancelled() => {
                    batch = self.denials.over(true);
                    while let Ok(event) = from.try_recv() {
                        batch.push(event);
                    }
                    for part in batch.chunks(500) {
                        self.send(part).await?;
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

#[cfg(test)]
mod tests {
    use nitejar_common::clock::ManualClock;
    use nitejar_common::error::Code;
    use nitejar_common::token::{Signer, generate_key};
    use nitejar_proto::audit::v1::RecordEventsResponse;
    use nitejar_proto::audit::v1::audit_internal_server::{AuditInternal, AuditInternalServer};
    use tonic::transport::server::TcpIncoming;
    use tonic::{Request, Response, Status};

    use super::*;

    /// An audit service that keeps what it is told.
    struct Audit(mpsc::UnboundedSender<AuditEvent>);

    #[tonic::async_trait]
    impl AuditInternal for Audit {
        async fn record_events(
            &self,
            request: Request<RecordEventsRequest>,
        ) -> Result<Response<RecordEventsResponse>, Status> {
            for event in request.into_inner().events {
                let _ = self.0.send(event);
            }
            Ok(Response::new(RecordEventsResponse::default()))
        }
    }

    #[tokio::test]
    async fn a_flood_is_counted_in_the_log_while_other_refusals_go_on() {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let uri = format!("http://{}", incoming.local_addr().unwrap());
        let (told, mut tells) = mpsc::unbounded_channel();
        let server = tonic::transport::Server::builder().add_service(AuditInternalServer::new(Audit(told)));
        tokio::spawn(server.serve_with_incoming(incoming));
        let clock = ManualClock::new(chrono::DateTime::UNIX_EPOCH);
        let signer = Signer::new("gateway", &generate_key().0, clock.clone()).unwrap();
        let audit = Upstream::new("audit", &uri, Duration::from_secs(300), signer, None).unwrap();
        let (denials, recorder) = Denials::new(audit, clock.clone());
        let actor = Actor { kind: ActorKind::User, id: "user_1".into(), name: String::new() };
        let refuse = |rpc: &str| {
            let error = Error::new(Code::PermissionDenied, "no");
            denials.add(&actor, "org_1".into(), rpc, None, &error, "req_1");
        };
        for _ in 0..A_MINUTE + 7 {
            refuse("flooded");
        }
        clock.advance(chrono::Duration::minutes(1));
        let stop = CancellationToken::new();
        let ends = stop.clone();
        let every = Duration::from_millis(300);
        let running = tokio::spawn(async move { recorder.run_settling(every, ends).await });
        // Others go on all the time, each with an RPC of its own: none of them ends what was counted.
        let others = async {
            for number in 0_u64.. {
                refuse(&format!("other {number}"));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let counted = async {
            while let Some(event) = tells.recv().await {
                if let Some(count) = event.details.get("count") {
                    return (event.target_id, count.clone());
                }
            }
            panic!("the recorder ended")
        };
        let counted = tokio::select! {
            counted = counted => counted,
            () = others => unreachable!(),
            () = tokio::time::sleep(Duration::from_secs(30)) => panic!("the flood's count is not written"),
        };
        assert_eq!(counted, ("flooded".to_owned(), "7".to_owned()));
        stop.cancel();
        running.await.unwrap().unwrap();
    }
}

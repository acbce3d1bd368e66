//! Answers about credentials, kept for as long as tenancy's stream of changes tells us what to forget.
//!
//! It fails safe: without a sign of life from the stream no kept answer is used, and each request asks tenancy again. So a
//! revoked key ends within [`SILENCE`] here, whatever breaks.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use nitejar_common::RequestCtx;
use nitejar_common::clock::SharedClock;
use nitejar_common::ctx::ActorKind;
use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::client::Upstream;
use nitejar_proto::tenancy::v1::tenancy_internal_client::TenancyInternalClient;
use nitejar_proto::tenancy::v1::{CredentialChange, WatchCredentialsRequest};
use opentelemetry::KeyValue;
use quick_cache::sync::Cache;
use tokio_util::sync::CancellationToken;

use super::Caller;

/// Tenancy gives ten signs of life a second. After so long without one, nothing kept is used.
pub(crate) const SILENCE: Duration = Duration::from_millis(600);

/// Tenancy notes a key's last use by the minute, so it is asked by the minute.
const KEPT: chrono::Duration = chrono::Duration::seconds(60);

/// Answers kept: a few hundred bytes each.
const MOST: usize = 100_000;

/// SHA-256 of the key, and the organization asked for.
type Question = ([u8; 32], String);

/// A kept answer.
#[derive(Clone, Debug)]
struct Answer {
    caller: Arc<Caller>,
    key_id: String,
    org: String,
    until: DateTime<Utc>,
}

/// The kept answers.
pub(crate) struct Credentials {
    answers: Cache<Question, Arc<Answer>>,
    clock: SharedClock,
    began: Instant,
    /// Milliseconds since `began` until which kept answers may be used.
    alive_until: AtomicU64,
    /// Counts what was forgotten. An answer that was asked for before is not kept: it may be from before the change.
    forgotten: Mutex<u64>,
    /// Questions that tenancy had to be asked, and those that it had not.
    uses: Arc<[AtomicU64; 2]>,
}

/// Each request counts here: it is summed up only when somebody looks.
fn counted() -> Arc<[AtomicU64; 2]> {
    let uses = Arc::<[AtomicU64; 2]>::default();
    let seen = Arc::clone(&uses);
    let _registered = opentelemetry::global::meter("nitejar")
        .u64_observable_counter("credential_checks")
        .with_description("Credentials checked, by whether a kept answer was used")
        .with_callback(move |observer| {
            for (kept, count) in [false, true].into_iter().zip(&*seen) {
                observer.observe(count.load(Ordering::Relaxed), &[KeyValue::new("kept", kept)]);
            }
        })
        .build();
    uses
}

/// What was forgotten when a question was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked(u64);

impl Credentials {
    pub(crate) fn new(clock: SharedClock) -> Self {
        Self {
            answers: Cache::new(MOST),
            clock,
            began: Instant::now(),
            alive_until: AtomicU64::new(0),
            forgotten: Mutex::new(0),
            uses: counted(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn alive(&self) -> bool {
        self.now() < self.alive_until.load(Ordering::Acquire)
    }

    /// The kept answer; none: tenancy must be asked.
    pub(crate) fn get(&self, hash: &[u8; 32], org: &str) -> Option<Arc<Caller>> {
        let answer = self.answers.get(&(*hash, org.to_owned()));
        let answer = answer.filter(|a| self.alive() && self.clock.now() < a.until);
        self.uses[usize::from(answer.is_some())].fetch_add(1, Ordering::Relaxed);
        answer.map(|a| Arc::clone(&a.caller))
    }

    /// To be called before tenancy is asked.
    pub(crate) fn ask(&self) -> Asked {
        Asked(*self.forgotten.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps an answer, unless something was forgotten since it was asked for. A caller without a role where they ask is not
    /// kept: a new membership must count at once, and strangers must not fill the memory.
    pub(crate) fn keep(
        &self,
        asked: Asked,
        question: Question,
        key_id: &str,
        caller: &Arc<Caller>,
        expires_at: Option<DateTime<Utc>>,
    ) {
        // Operators are configuration: nobody tells when one goes. So what a support grant opens is asked for each time, too.
        let operator = caller.actor.kind == ActorKind::Operator;
        if operator || (caller.role.is_none() && !question.1.is_empty()) {
            return;
        }
        let soon = self.clock.now() + KEPT;
        let until = expires_at.map_or(soon, |at| at.min(soon));
        let (org, key_id) = (question.1.clone(), key_id.to_owned());
        // Held until it is in: nothing can be forgotten in between.
        let forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        if *forgotten == asked.0 && self.alive() {
            let answer = Answer { caller: Arc::clone(caller), key_id, org, until };
            self.answers.insert(question, Arc::new(answer));
        }
    }

    /// Forgets what the changes are about, looking at each kept answer once.
    fn forget(&self, changes: &[CredentialChange]) {
        let named = |part: fn(&CredentialChange) -> &String| -> HashSet<&str> {
            changes.iter().map(|change| part(change).as_str()).filter(|id| !id.is_empty()).collect()
        };
        let (keys, users, orgs) = (named(|c| &c.key_id), named(|c| &c.user_id), named(|c| &c.org_id));
        let everything = changes.iter().any(|change| change.everything);
        if !everything && keys.is_empty() && users.is_empty() && orgs.is_empty() {
            return;
        }
        let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        *forgotten += 1;
        if everything {
            self.answers.clear();
            return;
        }
        self.answers.retain(|_, a| {
            !keys.contains(a.key_id.as_str())
                && !users.contains(a.caller.actor.id.as_str())
                && !orgs.contains(a.org.as_str())
        });
    }

    /// Follows tenancy's changes, until told to stop.
    pub(crate) async fn run(&self, tenancy: &Upstream, stop: CancellationToken) -> Result<()> {
        while !stop.is_cancelled() {
            let ended = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                ended = self.follow(tenancy) => ended,
            };
            if let Err(error) = ended {
                tracing::warn!(error = %error.log_text(), "tenancy tells no changes: each credential is asked for anew");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
        }
        Ok(())
    }

    async fn follow(&self, tenancy: &Upstream) -> Result<()> {
        let me = RequestCtx::service("gateway", &*self.clock);
        let request = tenancy.stream_request(&me, WatchCredentialsRequest {})?;
        let mut client = TenancyInternalClient::new(tenancy.channel());
        let silence = |_| Error::unavailable().because("silence");
        // A stream that neither speaks nor ends is as good as gone, and so is one that does not begin.
        let begun = tokio::time::timeout(SILENCE * 3, client.watch_credentials(request)).await;
        let mut changes = begun.map_err(silence)??.into_inner().ready_chunks(256);
        while let Some(told) = tokio::time::timeout(SILENCE * 3, changes.next()).await.map_err(silence)? {
            let told = told.into_iter().collect::<std::result::Result<Vec<_>, _>>()?;
            if !self.alive() {
                // What was kept before the silence must not come back before what was told in it is read.
                self.forget(&[CredentialChange { everything: true, ..CredentialChange::default() }]);
            }
            self.forget(&told);
            let until = self.now() + u64::try_from(SILENCE.as_millis()).unwrap_or(0);
            self.alive_until.store(until, Ordering::Release);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nitejar_common::clock::system;
    use nitejar_common::ctx::Actor;
    use nitejar_common::permission::Role;

    use super::*;
    use crate::authn::Shown;

    fn ada() -> Arc<Caller> {
        let actor = Actor { kind: ActorKind::User, id: "user_ada".into(), name: "Ada".into() };
        Arc::new(Caller {
            org_state: nitejar_common::ctx::OrgState::Active,
            grants: Vec::new(),
            shown: Shown::Never,
            networks: Vec::new(),
            a_minute: None,
            actor,
            role: Some(Role::Admin),
            scopes: None,
            home: None,
            rotate: false,
            session: None,
            grant: None,
            leads_to: None,
        })
    }

    fn kept() -> Credentials {
        let kept = Credentials::new(system());
        kept.alive_until.store(u64::MAX, Ordering::Release);
        kept.keep(kept.ask(), ([1; 32], "org_a".into()), "key_1", &ada(), None);
        kept.keep(kept.ask(), ([2; 32], "org_b".into()), "key_2", &ada(), None);
        kept
    }

    fn knows(kept: &Credentials) -> [bool; 2] {
        [kept.get(&[1; 32], "org_a").is_some(), kept.get(&[2; 32], "org_b").is_some()]
    }

    #[test]
    fn forgets_what_it_is_told() {
        let change = CredentialChange::default;
        for (change, left) in [
            (change(), [true, true]),
            (CredentialChange { key_id: "key_1".into(), ..change() }, [false, true]),
            (CredentialChange { org_id: "org_b".into(), ..change() }, [true, false]),
            (CredentialChange { user_id: "user_ada".into(), ..change() }, [false, false]),
            (CredentialChange { user_id: "user_other".into(), ..change() }, [true, true]),
            (CredentialChange { everything: true, ..change() }, [false, false]),
        ] {
            let kept = kept();
            kept.forget(std::slice::from_ref(&change));
            assert_eq!(knows(&kept), left, "{change:?}");
        }
    }

    #[test]
    fn uses_nothing_without_a_sign_of_life_or_after_the_end() {
        let kept = kept();
        kept.alive_until.store(kept.now(), Ordering::Release);
        assert_eq!(knows(&kept), [false, false]);
        kept.alive_until.store(u64::MAX, Ordering::Release);
        assert_eq!(knows(&kept), [true, true]);
        let past = kept.clock.now() - chrono::Duration::seconds(1);
        kept.keep(kept.ask(), ([1; 32], "org_a".into()), "key_1", &ada(), Some(past));
        assert_eq!(knows(&kept), [false, true]);
    }

    #[test]
    fn does_not_keep_what_was_asked_before_a_change_nor_strangers() {
        let kept = kept();
        let asked = kept.ask();
        kept.forget(&[CredentialChange { key_id: "key_1".into(), ..CredentialChange::default() }]);
        kept.keep(asked, ([1; 32], "org_a".into()), "key_1", &ada(), None);
        let changed = |change: fn(&mut Caller)| {
            let mut caller = Caller::clone(&ada());
            change(&mut caller);
            Arc::new(caller)
        };
        let stranger = changed(|caller| caller.role = None);
        kept.keep(kept.ask(), ([3; 32], "org_a".into()), "key_3", &stranger, None);
        assert_eq!(knows(&kept), [false, true]);
        assert!(kept.get(&[3; 32], "org_a").is_none());
        let operator = changed(|caller| caller.actor.kind = ActorKind::Operator);
        kept.keep(kept.ask(), ([4; 32], String::new()), "", &operator, None);
        assert!(kept.get(&[4; 32], "").is_none());
    }
}

//! Rate limits per key, per organization and per address, decided in this process and shared with the other replicas.
//!
//! Every [`SHARE`] each replica tells tenancy what it admitted, and hears what all did together. So a limit may be passed
//! by what the other replicas admit in that time, and by nothing more; when tenancy is away, each replica limits alone.

mod window;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderName, HeaderValue};
use nitejar_common::RequestCtx;
use nitejar_common::clock::SharedClock;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::client::Upstream;
use nitejar_common::id::OrgId;
use nitejar_common::network::network;
use nitejar_proto::tenancy::v1::tenancy_internal_client::TenancyInternalClient;
use nitejar_proto::tenancy::v1::{RateCount, ShareRatesRequest};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

pub(crate) use window::Left;
use window::{WINDOW, Window};

/// How often counts are shared.
const SHARE: Duration = Duration::from_millis(500);
/// Subjects that are remembered: some hundred bytes each.
const MOST: usize = 200_000;
/// Subjects told at a time. Each may have two counts, and tenancy takes 5,000.
const TOLD: usize = 2_500;
/// Questions about credentials at a time, from one address that has shown too many bad ones.
const FEW: usize = 2;

pub(crate) const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub(crate) const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Requests a minute.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimits {
    /// Of one API key, or of one person's key.
    pub key: u64,
    /// Of one organization, by whomever.
    pub org: u64,
    /// Of one address (IPv6: one /64) without a credential that is known here and good there, or with webhooks that are refused.
    pub address: u64,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { key: 6_000, org: 30_000, address: 600 }
    }
}

type Subject = [u8; 16];

/// Who may how often.
pub(crate) struct Limits {
    limits: RateLimits,
    clock: SharedClock,
    windows: Cache<Subject, Arc<Mutex<Window>>>,
    /// Credentials that are asked about although their address has shown too many that were not good.
    few: Cache<(String, Subject), Arc<Semaphore>>,
    /// Have something to tell.
    touched: Mutex<std::collections::HashSet<Subject>>,
}

fn subject(kind: &str, id: &[u8]) -> Subject {
    let hash: [u8; 32] = Sha256::new().chain_update(kind).chain_update(id).finalize().into();
    let mut subject = Subject::default();
    subject.copy_from_slice(&hash[..16]);
    subject
}

fn passed(what: &str, limit: u64, wait: Duration) -> Error {
    let detail = format!("More than {limit} requests a minute of this {what}. Wait as Retry-After says.");
    Error::new(Code::RateLimited, detail).retry_after(Duration::from_secs(wait.as_secs() + 1))
}

fn address_subject(address: IpAddr) -> Subject {
    match network(address) {
        IpAddr::V4(v4) => subject("address", &v4.octets()),
        IpAddr::V6(v6) => subject("address", &v6.octets()),
    }
}

impl Limits {
    pub(crate) fn new(limits: RateLimits, clock: SharedClock) -> Self {
        Self {
            limits,
            clock,
            windows: Cache::new(MOST),
            few: Cache::new(MOST / 20),
            touched: Mutex::default(),
        }
    }

    fn take(&self, what: &'static str, subject: Subject, limit: u64, now: DateTime<Utc>) -> Result<Left> {
        let window = self.windows.get_or_insert_with(&subject, || Ok::<_, Error>(Arc::default()))?;
        let (taken, first) = {
            let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
            let first = window.is_told();
            (window.take(limit, now), first)
        };
        // Once until it is told: all requests would wait for each other here.
        if first && taken.is_ok() {
            self.touched.lock().unwrap_or_else(PoisonError::into_inner).insert(subject);
        }
        taken.map_err(|wait| passed(what, limit, wait))
    }

    /// Counts a request of somebody known; `left`: the tighter of their limits, also when it is passed.
    pub(crate) fn take_known(
        &self,
        credential: &str,
        own: Option<u64>,
        tenant: Option<&OrgId>,
        left: &mut Option<Left>,
    ) -> Result<()> {
        let most = own.map_or(self.limits.key, |own| own.min(self.limits.key));
        let key = (subject("key", credential.as_bytes()), most, "key");
        let org = tenant.map(|org| subject("org", org.as_str().as_bytes()));
        let org = org.map(|org| (org, self.limits.org, "organization"));
        let now = self.clock.now();
        for (subject, limit, what) in std::iter::once(key).chain(org) {
            let taken = self.take(what, subject, limit, now);
            let after = match &taken {
                Ok(after) => *after,
                Err(error) => {
                    Left { limit, remaining: 0, reset: error.retry_after_value().unwrap_or_default() }
                }
            };
            if left.is_none_or(|left| after.remaining < left.remaining) {
                *left = Some(after);
            }
            taken?;
        }
        Ok(())
    }

    /// Whether tenancy may be asked about a credential from an address: freely, or, after too many that were not good, only
    /// with one of a few places. Each kind of asking has its own: `credential`, `webhook`.
    pub(crate) fn narrow(&self, kind: &str, address: IpAddr) -> Result<Option<OwnedSemaphorePermit>> {
        let subject = address_subject(address);
        let used_up = self.windows.get(&subject).and_then(|window| {
            let window = window.lock().unwrap_or_else(PoisonError::into_inner);
            window.refused_now(self.limits.address, self.clock.now())
        });
        let Some(wait) = used_up else { return Ok(None) };
        let few = (kind.to_owned(), subject);
        let few = self.few.get_or_insert_with(&few, || Ok::<_, Error>(Arc::new(Semaphore::new(FEW))))?;
        few.try_acquire_owned().map(Some).map_err(|_| passed("address", self.limits.address, wait))
    }

    /// Counts a request of nobody known, or with a credential that is not good.
    pub(crate) fn take_address(&self, address: IpAddr) -> Result<Left> {
        self.take("address", address_subject(address), self.limits.address, self.clock.now())
    }

    /// Tells and hears, until told to stop.
    pub(crate) async fn run(&self, tenancy: &Upstream, stop: CancellationToken) -> Result<()> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(SHARE) => {}
            }
            if let Err(error) = self.share(tenancy).await {
                tracing::warn!(error = %error.log_text(), "rate limits are not shared now: each replica counts alone");
            }
        }
    }

    async fn share(&self, tenancy: &Upstream) -> Result<()> {
        let mut touched: Vec<Subject> = {
            let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *touched).into_iter().collect()
        };
        if touched.len() > TOLD {
            // The rest waits for its turn.
            let rest = touched.split_off(TOLD);
            self.touched.lock().unwrap_or_else(PoisonError::into_inner).extend(rest);
        }
        let mut counts = Vec::with_capacity(touched.len());
        for subject in &touched {
            let Some(window) = self.windows.get(subject) else { continue };
            for (number, count) in window.lock().unwrap_or_else(PoisonError::into_inner).share() {
                counts.push(RateCount { subject: subject.to_vec(), window: number, count });
            }
        }
        if counts.is_empty() {
            return Ok(());
        }
        let me = RequestCtx::service("gateway", &*self.clock);
        // Never repeated: counted twice it would refuse who may; lost, it admits a little more.
        let request = tenancy.request_within(&me, ShareRatesRequest { counts }, Duration::from_secs(2))?;
        let totals = TenancyInternalClient::new(tenancy.channel()).share_rates(request).await?.into_inner();
        for total in totals.counts {
            let Ok(subject) = Subject::try_from(total.subject.as_slice()) else { continue };
            if let Some(window) = self.windows.get(&subject) {
                window.lock().unwrap_or_else(PoisonError::into_inner).learn(total.window, total.count);
            }
        }
        Ok(())
    }
}

/// Tells the caller how they stand.
pub(crate) fn tell(headers: &mut HeaderMap, left: Left) {
    let policy = format!("\"default\";q={};w={WINDOW}", left.limit);
    let now = format!("\"default\";r={};t={}", left.remaining, left.reset.as_secs().max(1));
    for (name, text) in [(POLICY, policy), (LIMIT, now)] {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use nitejar_common::clock::{SystemClock, system};

    use super::*;

    #[test]
    fn each_subject_has_its_own_limit() {
        let limits = Limits::new(RateLimits { key: 3, org: 4, address: 2 }, system());
        let org = OrgId::new(&SystemClock);
        let count = |key: &str, org: &OrgId| {
            (0..9).filter(|_| limits.take_known(key, None, Some(org), &mut None).is_ok()).count()
        };
        assert_eq!(count("one", &org), 3);
        assert_eq!(count("two", &org), 1, "the organization's are used up");
        let other = OrgId::new(&SystemClock);
        assert_eq!(count("three", &other), 3);
        let own = |most| {
            (0..9).filter(|_| limits.take_known("four", Some(most), Some(&other), &mut None).is_ok()).count()
        };
        assert_eq!(
            (own(1), own(9)),
            (1, 0),
            "a limit of its own is below everybody's, and the organization's are used up"
        );
        let address =
            |text: &str| (0..9).filter(|_| limits.take_address(text.parse().unwrap()).is_ok()).count();
        assert_eq!(address("192.0.2.1"), 2);
        assert_eq!(address("::ffff:192.0.2.1"), 0, "the same address");
        assert_eq!(address("192.0.2.2"), 2);
        assert_eq!(address("2001:db8::1"), 2);
        assert_eq!(address("2001:db8::ffff:1"), 0, "the same network");
        assert_eq!(address("2001:db8:0:1::1"), 2);
        let refused = limits.take_address("192.0.2.1".parse().unwrap()).unwrap_err();
        assert_eq!(refused.code(), Code::RateLimited);
        assert!(refused.retry_after_value().unwrap() <= Duration::from_secs(121));
    }
}

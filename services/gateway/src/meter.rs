//! API calls: spent from leased chunks, so that a request decides in this process, and settled in the background.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use nitejar_common::RequestCtx;
use nitejar_common::clock::SharedClock;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::client::Upstream;
use nitejar_common::id::OrgId;
use nitejar_common::time::from_proto;
use nitejar_proto::billing::v1::billing_internal_client::BillingInternalClient;
use nitejar_proto::billing::v1::{LeaseApiCallsRequest, LeaseApiCallsResponse};
use tokio_util::sync::CancellationToken;

/// Without a request for so long, what is left of a lease goes back.
const QUIET: chrono::Duration = chrono::Duration::seconds(30);

/// One organization's lease.
#[derive(Clone, Debug, Default)]
struct Lease {
    id: String,
    granted: i64,
    spent: i64,
    /// Renewed before billing would take it back.
    renew_at: Option<DateTime<Utc>>,
    used_at: Option<DateTime<Utc>>,
    /// The month's limit is reached: asked again only from then on.
    refused_until: Option<DateTime<Utc>>,
}

/// Counts API calls.
pub(crate) struct Meter {
    billing: Upstream,
    clock: SharedClock,
    leases: Mutex<HashMap<OrgId, Lease>>,
    /// One renewal of an organization at a time.
    renewing: Mutex<HashMap<OrgId, Arc<tokio::sync::Mutex<()>>>>,
}

impl Meter {
    pub(crate) fn new(billing: Upstream, clock: SharedClock) -> Self {
        Self { billing, clock, leases: Mutex::default(), renewing: Mutex::default() }
    }

    /// Counts one call, or refuses it.
    pub(crate) async fn spend(&self, org: &OrgId) -> Result<()> {
        if let Some(decided) = self.try_spend(org) {
            return decided;
        }
        let lock = {
            let mut renewing = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
            if renewing.len() > 10_000 {
                renewing.retain(|_, l| Arc::strong_count(l) > 1);
            }
            Arc::clone(renewing.entry(org.clone()).or_default())
        };
        let _one = lock.lock().await;
        // Another request may have renewed it while we waited.
        if let Some(decided) = self.try_spend(org) {
            return decided;
        }
        match Box::pin(self.renew(org)).await {
            Ok(()) => self.try_spend(org).unwrap_or(Ok(())),
            Err(error) => {
                // Billing is away: the customer's work goes on. What is not counted is not billed.
                tracing::warn!(org = %org, error = %error.log_text(), "API calls are not counted now");
                Ok(())
            }
        }
    }

    /// None: the lease must be renewed first.
    fn try_spend(&self, org: &OrgId) -> Option<Result<()>> {
        let now = self.clock.now();
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let lease = leases.get_mut(org)?;
        lease.used_at = Some(now);
        if lease.refused_until.is_some_and(|until| now < until) {
            return Some(Err(refused()));
        }
        let alive = lease.renew_at.is_some_and(|at| now < at);
        if alive && lease.spent < lease.granted {
            lease.spent += 1;
            return Some(Ok(()));
        }
        None
    }

    async fn renew(&self, org: &OrgId) -> Result<()> {
        let old = {
            let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            leases.get(org).cloned().unwrap_or_default()
        };
        let answer = self.exchange(org, &old, false).await?;
        let now = self.clock.now();
        let ends = answer.expires_at.as_ref().and_then(from_proto).unwrap_or(now);
        let lease = Lease {
            id: answer.lease_id,
            granted: answer.granted,
            spent: 0,
            renew_at: Some(now + (ends - now) / 2),
            used_at: Some(now),
            refused_until: (answer.granted == 0).then(|| now + chrono::Duration::seconds(5)),
        };
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.insert(org.clone(), lease);
        Ok(())
    }

    async fn exchange(&self, org: &OrgId, old: &Lease, settle_only: bool) -> Result<LeaseApiCallsResponse> {
        let me = RequestCtx::service("gateway", &*self.clock).for_tenant(org.clone());
        let message = LeaseApiCallsRequest { lease_id: old.id.clone(), spent: old.spent, settle_only };
        let request = self.billing.request_within(&me, message, Duration::from_secs(3))?;
        Ok(BillingInternalClient::new(self.billing.channel()).lease_api_calls(request).await?.into_inner())
    }

    /// Settles what is quiet, and at the end everything.
    pub(crate) async fn run(&self, stop: CancellationToken) -> Result<()> {
        loop {
            let ending = tokio::select! {
                () = stop.cancelled() => true,
                () = tokio::time::sleep(Duration::from_secs(5)) => false,
            };
            let before = self.clock.now() - QUIET;
            let quiet: Vec<(OrgId, Lease)> = {
                let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
                let orgs: Vec<OrgId> = leases
                    .iter()
                    .filter(|(_, l)| ending || l.used_at.is_none_or(|at| at < before))
                    .map(|(org, _)| org.clone())
                    .collect();
                orgs.into_iter().filter_map(|org| leases.remove(&org).map(|l| (org, l))).collect()
            };
            for (org, lease) in quiet.into_iter().filter(|(_, l)| !l.id.is_empty()) {
                if let Err(error) = self.exchange(&org, &lease, true).await {
                    tracing::warn!(org = %org, error = %error.log_text(), "a lease of API calls is not settled");
                }
            }
            if ending {
                return Ok(());
            }
        }
    }
}

fn refused() -> Error {
    Error::new(
        Code::QuotaExceeded,
        "The plan's API calls of this month are used up. Change the plan, or wait.",
    )
    .retry_after(Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    /// What lessens access or risk, takes the data away, or tells how much is used is never refused for used-up calls.
    #[test]
    fn what_may_be_done_while_suspended_is_never_metered() {
        let policies = nitejar_proto::POLICIES.values();
        let lessens = policies.clone().filter(|policy| policy.while_suspended);
        let exports = policies.clone().filter(|policy| policy.permission.as_deref() == Some("org.export"));
        let needed = |permission: &str| matches!(permission, "usage.read" | "billing.read");
        let usage = policies.clone().filter(|policy| policy.permission.as_deref().is_some_and(needed));
        let free: Vec<_> = lessens.chain(exports).chain(usage).collect();
        assert!(free.len() > 20, "{}", free.len());
        for policy in free {
            assert!(!policy.metered, "{}: leave metered out", policy.path);
        }
        assert!(policies.clone().any(|policy| policy.metered));
        // What narrows access, and what one reads to know where.
        for rpc in [
            "Members/UpdateMember",
            "Roles/SetMemberRoles",
            "Roles/UpdateRole",
            "Keys/UpdateKey",
            "Keys/RotateKey",
            "Secrets/RotateDataKey",
            "Members/ListMembers",
            "Invitations/ListInvitations",
            "Roles/ListRoles",
            "Keys/ListKeys",
            "Secrets/ListSecrets",
            "Integrations/ListIntegrations",
            "Domains/ListDomains",
            "Support/ListSupportGrants",
            "Ownership/GetOwnershipOffer",
        ] {
            let found: Vec<_> =
                policies.clone().filter(|policy| policy.path.ends_with(&format!(".{rpc}"))).collect();
            assert!(found.len() == 1 && !found[0].metered, "{rpc}: leave metered out");
        }
    }
}

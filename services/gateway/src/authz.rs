//! Where, and whether they may. Another's organization and one that does not exist look the same.

use chrono::{DateTime, Utc};
use nitejar_common::RequestCtx;
use nitejar_common::ctx::{ActorKind, OrgState};
use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::server::may_call;
use nitejar_common::id::OrgId;
use nitejar_proto::policy::{MethodPolicy, Scope};

use crate::authn::Caller;

/// The context of a permitted request.
pub(crate) fn authorize(
    policy: &MethodPolicy,
    caller: &Caller,
    org: Option<&str>,
    request_id: &str,
    now: DateTime<Utc>,
) -> Result<RequestCtx> {
    let tenant = match policy.scope {
        Scope::Tenant => {
            let org = org.ok_or_else(|| Error::internal("a TENANT route without {org_id}"))?;
            let no_such = || Error::not_found(format!("organization {org}"));
            // Who has no role there, operators included, is told that there is nothing.
            if caller.role.is_none() && caller.actor.kind != ActorKind::Runner {
                return Err(no_such());
            }
            Some(org.parse::<OrgId>().map_err(|_| no_such())?)
        }
        // A runner's organization comes with its token.
        Scope::Runner => caller.home.as_deref().and_then(|home| home.parse().ok()),
        Scope::Operator => org
            .map(|org| org.parse::<OrgId>())
            .transpose()
            .map_err(|_| Error::not_found("such organization"))?,
        _ => None,
    };
    let ctx = RequestCtx {
        tenant,
        org_state: if policy.scope == Scope::Tenant { caller.org_state } else { OrgState::Active },
        actor: caller.actor.clone(),
        role: caller.role.filter(|_| policy.scope == Scope::Tenant),
        grants: if policy.scope == Scope::Tenant { caller.grants.clone() } else { Vec::new() },
        scopes: caller.scopes.clone(),
        sign_in: caller.shown.at(now),
        request_id: request_id.to_owned(),
        idempotency: None,
    };
    may_call(policy, &ctx)?;
    Ok(ctx)
}

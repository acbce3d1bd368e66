//! The layer in front of every handler: finds the RPC's policy, verifies the token, checks scope and permission once
//! more, opens the span, and puts the [`RequestCtx`] where [`ctx`] finds it. What it does not know it refuses.

use std::sync::Arc;
use std::task::{self, Poll};

use futures_util::future::BoxFuture;
use tonic::body::Body;
use tracing::Instrument as _;

use super::{REQUEST_ID_HEADER, TOKEN_HEADER, trace};
use crate::ctx::{ActorKind, RequestCtx};
use crate::error::{Code, Error, Result};
use crate::idempotency::{self, Idempotency};
use crate::permission::Role;
use crate::policy::{Freshness, MethodPolicy, Scope};
use crate::token::Verifier;

/// The context that the layer verified.
pub fn ctx<T>(request: &tonic::Request<T>) -> Result<RequestCtx> {
    let found = request.extensions().get::<RequestCtx>().cloned();
    found.ok_or_else(|| Error::internal("no context: the service runs without AuthLayer"))
}

/// Wraps a service's routes; see the module.
#[derive(Clone)]
pub struct AuthLayer {
    verifier: Arc<Verifier>,
    service: &'static str,
}

impl AuthLayer {
    /// `service`: the audience that tokens must have, and the package whose RPCs exist here.
    pub fn new(verifier: Arc<Verifier>, service: &'static str) -> Self {
        Self { verifier, service }
    }

    fn authorize(
        &self,
        path: &str,
        headers: &http::HeaderMap,
    ) -> Result<(RequestCtx, &'static MethodPolicy)> {
        let policy = nitejar_proto::POLICIES
            .get(path)
            .filter(|p| p.upstream() == self.service || p.upstream() == "common")
            .ok_or_else(|| Error::not_found(format!("RPC {path} here")))?;
        let token = headers
            .get(TOKEN_HEADER)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.strip_prefix("Bearer "))
            .ok_or_else(|| Error::new(Code::Unauthenticated, "An internal token is needed."))?;
        let mut ctx = self.verifier.verify(token).map_err(|refusal| {
            tracing::warn!(%refusal, path, "internal token refused");
            Error::new(Code::InvalidCredential, "The internal token is not valid.")
        })?;
        let id = headers.get(REQUEST_ID_HEADER).and_then(|v| v.to_str().ok()).unwrap_or_default();
        ctx.request_id = id.chars().take(64).collect();
        ctx.idempotency = headers.get(idempotency::HEADER).and_then(Idempotency::from_header);
        may_call(policy, &ctx)?;
        Ok((ctx, policy))
    }
}

/// The check that gateway and services share: does this context satisfy the RPC's scope and permission?
pub fn may_call(policy: &MethodPolicy, ctx: &RequestCtx) -> Result<()> {
    let kind = ctx.actor.kind;
    let only = |allowed: bool, who: &str| {
        if allowed {
            Ok(())
        } else {
            Err(Error::new(Code::PermissionDenied, format!("This is for {who} only.")))
        }
    };
    // After the permission: who may not do it anyway need not sign in for it.
    let fresh = || match policy.fresh {
        Freshness::Any => Ok(()),
        Freshness::Browser => ctx.require_fresh_browser(),
        Freshness::Person => ctx.require_fresh(),
    };
    match policy.scope {
        Scope::Public => Ok(()),
        Scope::User => {
            only(kind == ActorKind::User, "people, not for an organization's keys,")?;
            fresh()
        }
        Scope::Operator => only(kind == ActorKind::Operator, "operators"),
        Scope::Runner => only(kind == ActorKind::Runner && ctx.tenant.is_some(), "runners"),
        Scope::Internal => only(kind == ActorKind::Service, "services"),
        Scope::Tenant => {
            // A support grant makes an operator a viewer, who reads and nothing else.
            let supports =
                kind == ActorKind::Operator && ctx.role == Some(Role::Viewer) && policy.audit.is_none();
            only(
                supports || matches!(kind, ActorKind::User | ActorKind::ApiKey),
                "members and keys of the organization",
            )?;
            ctx.tenant()?;
            let permission = policy.permission.as_deref();
            ctx.require(permission.ok_or_else(|| Error::internal("a TENANT policy without permission"))?)?;
            fresh()?;
            if policy.people_only {
                ctx.require_user()?;
            }
            let changes = policy.audit.is_some() && !policy.while_suspended;
            if changes { ctx.org_state.require_active() } else { Ok(()) }
        }
    }
}

impl<S> tower::Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> AuthService<S> {
        AuthService { inner, layer: self.clone() }
    }
}

/// A service behind [`AuthLayer`].
#[derive(Clone)]
pub struct AuthService<S> {
    inner: S,
    layer: AuthLayer,
}

impl<S> tower::Service<http::Request<Body>> for AuthService<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The clone that was polled ready is the one to call.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let path = request.uri().path().to_owned();
        // Health is what a kubelet asks; it has no token and says nothing about tenants.
        if path.starts_with("/grpc.health.v1.Health/") {
            return Box::pin(inner.call(request));
        }
        let span = tracing::info_span!("rpc", otel.name = %path, otel.kind = "server", service = self.layer.service,
            request_id = tracing::field::Empty, tenant = tracing::field::Empty);
        trace::continue_from(&span, request.headers());
        let authorized = span.in_scope(|| self.layer.authorize(&path, request.headers()));
        match authorized {
            Err(error) => {
                Box::pin(async move { Ok(span.in_scope(|| tonic::Status::from(error)).into_http()) })
            }
            Ok((ctx, _)) => {
                span.record("request_id", ctx.request_id.as_str());
                if let Some(tenant) = &ctx.tenant {
                    span.record("tenant", tenant.as_str());
                }
                request.headers_mut().remove(TOKEN_HEADER);
                request.headers_mut().remove(idempotency::HEADER);
                request.extensions_mut().insert(ctx);
                Box::pin(inner.call(request).instrument(span))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::ctx::{Actor, OrgState, SignIn};
    use crate::id::OrgId;

    fn ctx(kind: ActorKind, role: Option<Role>, tenant: bool) -> RequestCtx {
        RequestCtx {
            tenant: tenant.then(|| OrgId::new(&SystemClock)),
            org_state: OrgState::Active,
            actor: Actor { kind, id: "x".into(), name: String::new() },
            role,
            grants: Vec::new(),
            scopes: None,
            sign_in: SignIn::Fresh,
            request_id: "req_1".into(),
            idempotency: None,
        }
    }

    /// Every RPC there is × every kind of caller: refused unless its scope names that kind, and a tenant's RPC unless
    /// the role holds the permission.
    #[test]
    fn every_policy_refuses_everybody_it_does_not_name() {
        use ActorKind::{Anonymous, ApiKey, Operator, Runner, Service, User};
        assert!(nitejar_proto::POLICIES.len() > 40);
        for policy in nitejar_proto::POLICIES.values() {
            for kind in [User, ApiKey, Operator, Runner, Service, Anonymous] {
                for role in
                    [None, Some(Role::Viewer), Some(Role::Member), Some(Role::Admin), Some(Role::Owner)]
                {
                    for tenant in [false, true] {
                        let allowed = may_call(policy, &ctx(kind, role, tenant)).is_ok();
                        let expected = match policy.scope {
                            Scope::Public => true,
                            Scope::User => kind == User,
                            Scope::Operator => kind == Operator,
                            Scope::Runner => kind == Runner && tenant,
                            Scope::Internal => kind == Service,
                            Scope::Tenant => {
                                let permission = policy.permission.as_deref().unwrap();
                                let reads = role == Some(Role::Viewer) && policy.audit.is_none();
                                let people = policy.people_only || policy.fresh == Freshness::Person;
                                (kind == User || (kind == ApiKey && !people) || (kind == Operator && reads))
                                    && tenant
                                    && role.is_some_and(|r| r.allows(permission))
                            }
                        };
                        assert_eq!(allowed, expected, "{} {kind:?} {role:?} tenant={tenant}", policy.path);
                    }
                }
            }
        }
    }

    /// While an organization's life stands still, its owner reads everything and changes only what lessens access or risk.
    #[test]
    fn a_suspended_organization_is_read_and_not_changed() {
        let lessen = [
            "Members.RemoveMember",
            "Members.LeaveOrg",
            "Invitations.RevokeInvitation",
            "Keys.RevokeKey",
            "Secrets.DeleteSecret",
            "Domains.DeleteDomain",
            "Support.ApproveSupportAccess",
            "Support.DenySupportAccess",
            "Support.RevokeSupportAccess",
            "Jobs.CancelJob",
            "Integrations.DeleteIntegration",
            "Agents.PauseAgent",
            "Agents.DeleteAgent",
            "Orgs.DeleteOrg",
            "Orgs.RestoreOrg",
            "Ownership.EndOwnershipOffer",
            "Roles.DeleteRole",
            "Exports.CreateExport",
            "Exports.DeleteExport",
        ];
        let mut changes = 0;
        for policy in nitejar_proto::POLICIES.values().filter(|p| p.scope == Scope::Tenant) {
            for state in [OrgState::Suspended, OrgState::Deleting] {
                let ctx = RequestCtx { org_state: state, ..ctx(ActorKind::User, Some(Role::Owner), true) };
                let short = policy.path.rsplit('.').next().unwrap().replace('/', ".");
                let expected = policy.audit.is_none() || lessen.contains(&short.as_str());
                assert_eq!(may_call(policy, &ctx).is_ok(), expected, "{short} {state:?}");
                changes += usize::from(!expected);
            }
        }
        assert!(changes > 20);
    }

    #[test]
    fn custom_roles_add_and_scopes_narrow_both() {
        let mut ctx = ctx(ActorKind::User, Some(Role::Viewer), true);
        ctx.grants = vec!["audit.read".into(), "no.such".into()];
        assert!(ctx.may("audit.read") && ctx.may("jobs.read") && !ctx.may("jobs.run") && !ctx.may("no.such"));
        ctx.scopes = Some(vec!["audit.read".into()]);
        assert!(ctx.may("audit.read") && !ctx.may("jobs.read"));
        ctx.role = None;
        assert!(!ctx.may("audit.read"), "they add to a role; without one there is nothing to add to");
    }

    /// A person must have signed in, or made their key, a moment ago; or at least a browser must have signed in.
    #[test]
    fn what_is_dangerous_needs_a_sign_in_of_a_moment_ago() {
        use ActorKind::{ApiKey, User};
        let mut asked = [0, 0];
        for policy in nitejar_proto::POLICIES.values() {
            let (number, good): (usize, [bool; 4]) = match policy.fresh {
                Freshness::Any => continue,
                Freshness::Browser => (0, [true, true, false, true]),
                Freshness::Person => (1, [false, true, false, false]),
            };
            asked[number] += 1;
            let callers =
                [(SignIn::Key, User), (SignIn::Fresh, User), (SignIn::Old, User), (SignIn::Key, ApiKey)];
            for ((sign_in, kind), good) in callers.into_iter().zip(good) {
                if kind == ApiKey && policy.scope != Scope::Tenant {
                    continue;
                }
                let ctx = RequestCtx { sign_in, ..ctx(kind, Some(Role::Owner), true) };
                assert_eq!(
                    may_call(policy, &ctx).map_err(|e| e.code()),
                    if good { Ok(()) } else { Err(Code::SignInAgain) },
                    "{} {sign_in:?} {kind:?}",
                    policy.path
                );
            }
            // Who may not do it anyway is not sent to sign in.
            if policy.scope == Scope::Tenant && policy.permission.as_deref() != Some("org.leave") {
                let ctx = RequestCtx { sign_in: SignIn::Old, ..ctx(User, Some(Role::Viewer), true) };
                assert_eq!(may_call(policy, &ctx).unwrap_err().code(), Code::PermissionDenied);
            }
        }
        assert!(asked[0] >= 3 && asked[1] >= 7, "{asked:?}");
    }
}

//! Why somebody may do something, or may not: the same rules as everywhere, in words.

use nitejar_common::RequestCtx;
use nitejar_common::error::{Error, Result};
use nitejar_common::permission::{self, Role};
use nitejar_common::policy::{Freshness, MethodPolicy, Scope};

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The permission.
    pub permission: &'static str,
    /// It is about something that waits while the organization is suspended.
    pub changes: bool,
    /// It is about something that an organization's key never does.
    pub people_only: bool,
    /// It is about something that a person does only after a sign-in of a moment ago.
    pub fresh: bool,
    /// It is about something that needs more than the permission.
    pub besides: Option<Besides>,
}

/// What an RPC's handler asks beside its permission: one rule for the handler and for who asks why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Besides {
    /// The role owner: who may everything by custom roles has no ownership to hand over.
    Owner,
    /// That the ownership is offered to them.
    Offered,
    /// One of both.
    OwnerOrOffered,
}

impl Besides {
    fn of(path: &str) -> Option<Self> {
        match path.rsplit('.').next()? {
            "Ownership/OfferOwnership" => Some(Self::Owner),
            "Ownership/AcceptOwnership" => Some(Self::Offered),
            "Ownership/EndOwnershipOffer" => Some(Self::OwnerOrOffered),
            _ => None,
        }
    }

    /// Whether it is so.
    pub fn holds(self, role: Option<Role>, offered: bool) -> bool {
        let owner = role == Some(Role::Owner);
        match self {
            Self::Owner => owner,
            Self::Offered => offered,
            Self::OwnerOrOffered => owner || offered,
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Owner => "this is for who has the role owner; a custom role does not give it",
            Self::Offered => "this is for whom the ownership is offered to",
            Self::OwnerOrOffered => "this is for owners, and for whom the ownership is offered to",
        }
    }
}

/// What an actor holds.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// The fixed role.
    pub role: Option<Role>,
    /// Custom roles: (id, name, permissions).
    pub custom: Vec<(String, String, Vec<String>)>,
    /// A key's; empty: not narrowed.
    pub scopes: Vec<String>,
    /// A key's; empty: good from anywhere.
    pub networks: Vec<String>,
    /// The ownership is offered to them.
    pub offered: bool,
}

impl Held {
    /// The context of a request of theirs, to ask of them what is asked of callers.
    pub fn as_caller(&self, ctx: &RequestCtx) -> RequestCtx {
        RequestCtx {
            role: self.role,
            grants: self.custom.iter().flat_map(|(_, _, permissions)| permissions.clone()).collect(),
            scopes: Some(self.scopes.clone()).filter(|scopes| !scopes.is_empty()),
            ..ctx.clone()
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether they may.
    pub allowed: bool,
    /// What decides.
    pub reason: String,
    /// Roles that give it.
    pub granted_by: Vec<String>,
    /// Scopes leave it out.
    pub narrowed: bool,
}

impl Question {
    /// What holds of every RPC that it is about.
    fn of(permission: &'static str, about: impl Fn(&MethodPolicy) -> bool) -> Self {
        let tenants = nitejar_proto::POLICIES.values().filter(|p| p.scope == Scope::Tenant);
        let about: Vec<&MethodPolicy> = tenants.filter(|p| about(p)).collect();
        let all = |holds: fn(&MethodPolicy) -> bool| !about.is_empty() && about.iter().all(|p| holds(p));
        let besides = about.first().and_then(|p| Besides::of(&p.path));
        Self {
            permission,
            besides: besides.filter(|rule| about.iter().all(|p| Besides::of(&p.path) == Some(*rule))),
            changes: all(|p| p.audit.is_some() && !p.while_suspended),
            people_only: all(|p| p.people_only || p.fresh == Freshness::Person),
            fresh: all(|p| p.fresh == Freshness::Person),
        }
    }
}

/// A permission, or the one that an RPC needs.
pub fn question(name: &str) -> Result<Question> {
    if let Some((permission, _)) = permission::CATALOGUE.iter().find(|(p, _)| *p == name) {
        return Ok(Question::of(permission, |p| p.permission.as_deref() == Some(name)));
    }
    let short = |path: &str| path.rsplit('.').next().is_some_and(|tail| tail.replace('/', ".") == name);
    let policy = nitejar_proto::POLICIES.values().find(|p| p.scope == Scope::Tenant && short(&p.path));
    let found = policy.and_then(|policy| {
        let wanted = policy.permission.as_deref()?;
        let (permission, _) = permission::CATALOGUE.iter().find(|(p, _)| *p == wanted)?;
        Some(Question::of(permission, |p| p.path == policy.path))
    });
    found.ok_or_else(|| {
        Error::invalid(
            "/permission",
            "must be a permission such as jobs.run, or an operation such as Jobs.CancelJob",
        )
    })
}

/// Decides as the gateway and the handler do.
pub fn explain(question: &Question, held: Option<&Held>, is_key: bool, org_state: &str) -> Verdict {
    let wanted = question.permission;
    let no = |reason: String, granted_by: Vec<String>, narrowed: bool| Verdict {
        allowed: false,
        reason,
        granted_by,
        narrowed,
    };
    let Some((held, role)) = held.and_then(|h| Some((h, h.role?))) else {
        return no("No member or living key of this organization has this id.".into(), Vec::new(), false);
    };
    let mut granted_by = Vec::new();
    let mut names = Vec::new();
    if role.allows(wanted) {
        granted_by.push(role.as_str().to_owned());
        names.push(format!("the role {}", role.as_str()));
    }
    for (id, name, _) in
        held.custom.iter().filter(|(_, _, permissions)| permissions.iter().any(|p| p == wanted))
    {
        granted_by.push(id.clone());
        names.push(format!("the custom role {name}"));
    }
    if granted_by.is_empty() {
        let least = Role::ALL.into_iter().find(|r| r.allows(wanted));
        let least = least.map(Role::as_str).unwrap_or_default();
        let custom = if held.custom.is_empty() { "" } else { ", nor do the custom roles" };
        return no(
            format!(
                "The role {} does not have {wanted}{custom}. The least role that has it is {least}.",
                role.as_str()
            ),
            granted_by,
            false,
        );
    }
    if !held.scopes.is_empty() && !held.scopes.iter().any(|s| s == wanted) {
        return no(format!("The key's scopes leave {wanted} out."), granted_by, true);
    }
    if question.people_only && is_key {
        return no(
            format!("The key holds {wanted}, but this is for people: an organization's key can't do it."),
            granted_by,
            false,
        );
    }
    if let Some(rule) = question.besides.filter(|rule| !rule.holds(held.role, held.offered)) {
        return no(format!("They hold {wanted}, but {}.", rule.in_words()), granted_by, false);
    }
    if question.changes && org_state != "active" {
        return no(
            format!("They hold {wanted}, but the organization is {org_state}: changes wait."),
            granted_by,
            false,
        );
    }
    let fresh = if question.fresh { " It needs a sign-in of the last 15 minutes." } else { "" };
    let networks = match held.networks.as_slice() {
        [] => String::new(),
        networks => {
            format!(" The key is good from {}; from other addresses it is refused.", networks.join(", "))
        }
    };
    Verdict {
        allowed: true,
        reason: format!("It is given by {}.{fresh}{networks}", names.join(" and ")),
        granted_by,
        narrowed: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nitejar_common::clock::SystemClock;
    use nitejar_common::ctx::SignIn;
    use nitejar_common::grpc::server::may_call;
    use nitejar_common::id::OrgId;
    use nitejar_common::{ActorKind, OrgState, RequestCtx};

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn held(role: Role, custom: &[&str], scopes: &[&str]) -> Held {
        let custom = vec![("role_1".into(), "Custom".into(), texts(custom))];
        Held { role: Some(role), custom, scopes: texts(scopes), ..Held::default() }
    }

    /// What the gate, and then the handler, does with a person who signed in a moment ago, or with a key.
    fn gate(policy: &MethodPolicy, held: &Held, is_key: bool, state: OrgState) -> bool {
        let mut ctx = RequestCtx::service("x", &SystemClock).for_tenant(OrgId::new(&SystemClock));
        ctx.actor.kind = if is_key { ActorKind::ApiKey } else { ActorKind::User };
        ctx.sign_in = if is_key { SignIn::Key } else { SignIn::Fresh };
        (ctx.role, ctx.org_state, ctx.grants) = (held.role, state, held.custom[0].2.clone());
        ctx.scopes = Some(held.scopes.clone()).filter(|s| !s.is_empty());
        let besides = Besides::of(&policy.path).is_none_or(|rule| rule.holds(held.role, held.offered));
        may_call(policy, &ctx).is_ok() && besides
    }

    const STATES: [(OrgState, &str); 2] = [(OrgState::Active, "active"), (OrgState::Suspended, "suspended")];

    /// Whatever is asked, the answer is what the gate would do.
    #[test]
    fn the_explanation_is_what_happens() {
        let customs = [&[][..], &["audit.read"], &["billing.read", "jobs.run", "org.transfer"]];
        let scopes = [&[][..], &["jobs.read"], &["jobs.run", "audit.read"]];
        let mut asked = 0;
        for policy in nitejar_proto::POLICIES.values().filter(|p| p.scope == Scope::Tenant) {
            let short = policy.path.rsplit('.').next().unwrap().replace('/', ".");
            let question = question(&short).unwrap();
            assert_eq!(Some(question.permission), policy.permission.as_deref());
            for role in Role::ALL {
                for (custom, scope) in customs.iter().flat_map(|c| scopes.iter().map(move |s| (c, s))) {
                    let held = Held { offered: scope.is_empty(), ..held(role, custom, scope) };
                    for ((state, name), is_key) in STATES.into_iter().flat_map(|s| [(s, false), (s, true)]) {
                        let verdict = explain(&question, Some(&held), is_key, name);
                        let happens = gate(policy, &held, is_key, state);
                        assert_eq!(verdict.allowed, happens, "{short} {role:?} {is_key} {verdict:?}");
                        asked += 1;
                    }
                }
            }
        }
        assert!(asked > 2000);
        assert!(!explain(&question("jobs.run").unwrap(), None, false, "active").allowed);
        assert!(question("Nothing.Such").is_err() && question("no.such").is_err());
    }

    /// Ownership is handed over by who has it, and taken by whom it is offered to, whatever custom roles give.
    #[test]
    fn what_a_handler_asks_beside_the_permission_is_named() {
        let mut held = held(Role::Admin, &["org.transfer"], &[]);
        let said = |name: &str, held: &Held| explain(&question(name).unwrap(), Some(held), false, "active");
        for (name, why) in [
            ("Ownership.OfferOwnership", "the role owner"),
            ("org.transfer", "the role owner"),
            ("Ownership.AcceptOwnership", "is offered to"),
            ("Ownership.EndOwnershipOffer", "for owners"),
        ] {
            let verdict = said(name, &held);
            assert!(!verdict.allowed && verdict.reason.contains(why), "{name} {verdict:?}");
        }
        assert!(said("org.leave", &held).allowed, "with it they can leave, whatever is offered");
        held.offered = true;
        assert!(said("Ownership.AcceptOwnership", &held).allowed);
        assert!(said("Ownership.EndOwnershipOffer", &held).allowed);
        assert!(!said("Ownership.OfferOwnership", &held).allowed);
        let owner = Held { role: Some(Role::Owner), ..Held::default() };
        assert!(said("org.transfer", &owner).allowed && said("Ownership.EndOwnershipOffer", &owner).allowed);
        held.networks = texts(&["10.0.0.0/8"]);
        let verdict = explain(&question("jobs.read").unwrap(), Some(&held), true, "active");
        let from = "good from 10.0.0.0/8; from other addresses it is refused";
        assert!(verdict.allowed && verdict.reason.contains(from), "{verdict:?}");
    }

    /// Of a bare permission it is yes where something can be done with it.
    #[test]
    fn a_permission_is_good_where_an_rpc_takes_it() {
        for (permission, _) in permission::CATALOGUE {
            let question = question(permission).unwrap();
            for ((state, name), is_key) in STATES.into_iter().flat_map(|s| [(s, false), (s, true)]) {
                let held = held(Role::Owner, &[], &[]);
                let verdict = explain(&question, Some(&held), is_key, name);
                let mut rpcs = nitejar_proto::POLICIES
                    .values()
                    .filter(|p| p.scope == Scope::Tenant && p.permission.as_deref() == Some(permission));
                let happens = rpcs.any(|policy| gate(policy, &held, is_key, state));
                assert_eq!(verdict.allowed, happens, "{permission} {is_key} {name} {verdict:?}");
            }
        }
        let owner = held(Role::Owner, &[], &[]);
        let said = |permission: &str, is_key, state| {
            explain(&question(permission).unwrap(), Some(&owner), is_key, state).allowed
        };
        assert!(said("jobs.run", true, "active") && !said("jobs.run", true, "suspended"));
        assert!(said("jobs.read", true, "suspended") && said("org.delete", false, "suspended"));
        assert!(!said("org.leave", true, "active"), "a key is no member");
    }
}

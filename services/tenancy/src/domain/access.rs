//! Why somebody may do something, or may not: the same rules as everywhere, in words.

use nitejar_common::error::{Error, Result};
use nitejar_common::permission::{self, Role};
use nitejar_common::policy::Scope;

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The permission.
    pub permission: &'static str,
    /// It is about something that waits while the organization is suspended.
    pub changes: bool,
}

/// What an actor holds.
#[derive(Clone, Debug)]
pub struct Held {
    /// The fixed role.
    pub role: Option<Role>,
    /// Custom roles: (id, name, permissions).
    pub custom: Vec<(String, String, Vec<String>)>,
    /// A key's; empty: not narrowed.
    pub scopes: Vec<String>,
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

/// A permission, or the one that an RPC needs.
pub fn question(name: &str) -> Result<Question> {
    if let Some((permission, _)) = permission::CATALOGUE.iter().find(|(p, _)| *p == name) {
        return Ok(Question { permission, changes: false });
    }
    let short = |path: &str| path.rsplit('.').next().is_some_and(|tail| tail.replace('/', ".") == name);
    let policy = nitejar_proto::POLICIES.values().find(|p| p.scope == Scope::Tenant && short(&p.path));
    let found = policy.and_then(|p| {
        let wanted = p.permission.as_deref()?;
        let (permission, _) = permission::CATALOGUE.iter().find(|(p, _)| *p == wanted)?;
        Some(Question { permission, changes: p.audit.is_some() && !p.while_suspended })
    });
    found.ok_or_else(|| {
        Error::invalid(
            "/permission",
            "must be a permission such as jobs.run, or an operation such as Jobs.CancelJob",
        )
    })
}

/// Decides as the gateway does.
pub fn explain(question: &Question, held: Option<&Held>, org_state: &str) -> Verdict {
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
    if question.changes && org_state != "active" {
        return no(
            format!("They hold {wanted}, but the organization is {org_state}: changes wait."),
            granted_by,
            false,
        );
    }
    Verdict {
        allowed: true,
        reason: format!("It is given by {}.", names.join(" and ")),
        granted_by,
        narrowed: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nitejar_common::clock::SystemClock;
    use nitejar_common::grpc::server::may_call;
    use nitejar_common::id::OrgId;
    use nitejar_common::{ActorKind, OrgState, RequestCtx};

    /// Whatever is asked, the answer is what the gate would do.
    #[test]
    fn the_explanation_is_what_happens() {
        let customs = [vec![], vec!["audit.read"], vec!["billing.read", "jobs.run"]];
        let scopes = [vec![], vec!["jobs.read"], vec!["jobs.run", "audit.read"]];
        let mut asked = 0;
        for policy in nitejar_proto::POLICIES.values().filter(|p| p.scope == Scope::Tenant) {
            let short = policy.path.rsplit('.').next().unwrap().replace('/', ".");
            let question = question(&short).unwrap();
            assert_eq!(Some(question.permission), policy.permission.as_deref());
            for role in Role::ALL {
                for (custom, scope) in customs.iter().flat_map(|c| scopes.iter().map(move |s| (c, s))) {
                    for (state, name) in [(OrgState::Active, "active"), (OrgState::Suspended, "suspended")] {
                        let texts = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
                        let mut ctx =
                            RequestCtx::service("x", &SystemClock).for_tenant(OrgId::new(&SystemClock));
                        ctx.actor.kind = ActorKind::ApiKey;
                        (ctx.role, ctx.org_state, ctx.grants) = (Some(role), state, texts(custom));
                        ctx.scopes = Some(texts(scope)).filter(|s| !s.is_empty());
                        let held = Held {
                            role: Some(role),
                            custom: vec![("role_1".into(), "Custom".into(), texts(custom))],
                            scopes: texts(scope),
                        };
                        let verdict = explain(&question, Some(&held), name);
                        assert_eq!(
                            verdict.allowed,
                            may_call(policy, &ctx).is_ok(),
                            "{short} {role:?} {verdict:?}"
                        );
                        asked += 1;
                    }
                }
            }
        }
        assert!(asked > 1000);
        assert!(!explain(&question("jobs.run").unwrap(), None, "active").allowed);
        assert!(question("Nothing.Such").is_err() && question("no.such").is_err());
    }
}

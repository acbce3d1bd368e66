//! Who may give whom what.

use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::permission::{self, Role};

/// Only an owner gives or takes `owner`; nobody gives more than they hold, a narrowed key no more than it is narrowed to.
pub fn may_give(ctx: &RequestCtx, role: Role) -> Result<()> {
    let own = ctx.role.ok_or_else(|| Error::lacks("members.write"))?;
    if role > own {
        return Err(Error::new(
            Code::PermissionDenied,
            format!("A role of {} can't give the role {}.", own.as_str(), role.as_str()),
        ));
    }
    match role.permissions().find(|p| !ctx.may(p)) {
        Some(missing) => Err(Error::lacks(missing)),
        None => Ok(()),
    }
}

/// The same, and an owner is made only by a person who showed a moment ago who they are.
pub fn may_give_now(ctx: &RequestCtx, role: Role) -> Result<()> {
    may_give(ctx, role)?;
    if role == Role::Owner { ctx.require_fresh() } else { Ok(()) }
}

/// Who gives, takes or changes permissions holds them all.
pub fn hold_all(ctx: &RequestCtx, permissions: &[String]) -> Result<()> {
    match permissions.iter().find(|p| !ctx.may(p)) {
        Some(missing) => Err(Error::lacks(missing)),
        None => Ok(()),
    }
}

/// The same for taking a role from a member: nobody touches who holds more than they do themselves.
pub fn may_take(ctx: &RequestCtx, role: Role) -> Result<()> {
    if role == Role::Owner && ctx.role != Some(Role::Owner) {
        return Err(Error::new(Code::PermissionDenied, "Only an owner changes or removes an owner."));
    }
    may_give(ctx, role)
}

/// A key's scopes: known, within its role and what custom roles `add`, and everything it will hold is held by its creator.
pub fn key_scopes(ctx: &RequestCtx, role: Role, added: &[String], scopes: &[String]) -> Result<()> {
    if ctx.role.is_none_or(|own| role > own) {
        return may_give(ctx, role);
    }
    for (i, scope) in scopes.iter().enumerate() {
        if !permission::is_known(scope) || !(role.allows(scope) || added.contains(scope)) {
            return Err(Error::invalid(
                format!("/scopes/{i}"),
                format!("must be a permission of the role {}, or of its custom roles", role.as_str()),
            ));
        }
    }
    let holds = |p: &str| scopes.is_empty() || scopes.iter().any(|s| s == p);
    let lacks = |p: &&str| holds(p) && !ctx.may(p);
    let custom = added.iter().map(String::as_str).find(lacks);
    match role.permissions().find(lacks).or(custom) {
        Some(missing) => Err(Error::lacks(missing)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nitejar_common::ActorKind;
    use nitejar_common::clock::SystemClock;
    use nitejar_common::ctx::SignIn;

    fn ctx(role: Role, scopes: Option<&[&str]>) -> RequestCtx {
        let mut ctx = RequestCtx::service("x", &SystemClock);
        ctx.role = Some(role);
        ctx.scopes = scopes.map(|s| s.iter().map(|s| (*s).to_owned()).collect());
        ctx
    }

    #[test]
    fn nobody_gives_more_than_they_hold() {
        for own in Role::ALL {
            for given in Role::ALL {
                assert_eq!(may_give(&ctx(own, None), given).is_ok(), given <= own, "{own:?} {given:?}");
            }
        }
        let narrow = ctx(Role::Admin, Some(&["members.write"]));
        assert!(may_give(&narrow, Role::Viewer).is_err(), "a leaked key must not invite its thief");
        assert!(may_take(&ctx(Role::Admin, None), Role::Owner).is_err());
        assert!(may_take(&ctx(Role::Admin, None), Role::Admin).is_ok());
        assert!(may_take(&ctx(Role::Viewer, None), Role::Admin).is_err(), "a custom role is no fixed one");
        assert!(may_take(&narrow, Role::Viewer).is_err());
        assert!(may_take(&ctx(Role::Owner, None), Role::Owner).is_ok());
    }

    #[test]
    fn an_owner_is_made_by_a_person_of_a_moment_ago() {
        let mut owner = ctx(Role::Owner, None);
        owner.actor.kind = ActorKind::User;
        let code = |ctx: &RequestCtx, role| may_give_now(ctx, role).map_err(|e| e.code());
        assert_eq!(code(&owner, Role::Owner), Err(Code::SignInAgain));
        assert_eq!(code(&owner, Role::Admin), Ok(()));
        assert_eq!(code(&ctx(Role::Admin, None), Role::Owner), Err(Code::PermissionDenied));
        owner.sign_in = SignIn::Fresh;
        assert_eq!(code(&owner, Role::Owner), Ok(()));
    }

    #[test]
    fn a_narrowed_key_makes_only_keys_as_narrow() {
        let narrow = ctx(Role::Admin, Some(&["keys.write", "jobs.read"]));
        let scopes = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert!(key_scopes(&narrow, Role::Viewer, &[], &scopes(&["jobs.read"])).is_ok());
        assert_eq!(key_scopes(&narrow, Role::Viewer, &[], &[]).unwrap_err().code(), Code::PermissionDenied);
        assert!(key_scopes(&narrow, Role::Admin, &[], &scopes(&["agents.write"])).is_err());
        let wide = ctx(Role::Admin, None);
        assert!(key_scopes(&wide, Role::Admin, &[], &[]).is_ok());
        assert_eq!(
            key_scopes(&wide, Role::Viewer, &[], &scopes(&["jobs.run"])).unwrap_err().code(),
            Code::InvalidArgument
        );
        assert_eq!(
            key_scopes(&wide, Role::Viewer, &[], &scopes(&["nonsense"])).unwrap_err().code(),
            Code::InvalidArgument
        );
    }
}

//! Who may give whom what.

use chrono::{DateTime, Utc};
use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::permission::{self, Role};

use super::networks;

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

/// What only owners hold, whoever gives it makes an owner in part: with the same proof. An organization's key never has it.
pub fn fresh_for(ctx: &RequestCtx, permissions: &[String]) -> Result<()> {
    let only_owners = |p: &String| permission::is_known(p) && !Role::Admin.allows(p);
    if permissions.iter().any(only_owners) { ctx.require_fresh() } else { Ok(()) }
}

/// Whoever invited must still be somebody who may, when it is accepted: a role and these permissions of custom roles.
pub fn may_invite(ctx: &RequestCtx, role: Role, permissions: &[String]) -> Result<()> {
    ctx.require("members.write")?;
    may_give(ctx, role)?;
    hold_all(ctx, permissions)
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

/// What binds a key, beside what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Networks that it may be used from; none: from anywhere.
    pub networks: Vec<String>,
    /// Its own limit.
    pub requests_per_minute: Option<i32>,
    /// Until when.
    pub expires_at: Option<DateTime<Utc>>,
}

impl Bounds {
    /// The fields in which it reaches further than another.
    pub fn beyond(&self, other: &Self) -> Vec<&'static str> {
        let fields = [
            ("allowed_networks", !networks::within(&self.networks, &other.networks)),
            ("requests_per_minute", is_more(self.requests_per_minute, other.requests_per_minute)),
            ("expires_at", is_more(self.expires_at, other.expires_at)),
        ];
        fields.into_iter().filter(|(_, further)| *further).map(|(field, _)| field).collect()
    }
}

/// None is without an end.
fn is_more<T: Ord>(this: Option<T>, other: Option<T>) -> bool {
    other.is_some_and(|most| this.is_none_or(|this| this > most))
}

/// What binds an organization's key binds all that it gives, to others and to itself: a stolen one frees nobody. `own` binds the
/// caller; of a key that is changed only what reaches further than `before` is given by it.
pub fn keep_within(own: &Bounds, before: Option<&Bounds>, given: &Bounds) -> Result<()> {
    let mut freed = given.beyond(own);
    if let Some(before) = before {
        let widened = given.beyond(before);
        freed.retain(|field| widened.contains(field));
    }
    match freed.first() {
        Some(field) => Err(Error::new(
            Code::PermissionDenied,
            format!("A key gives no more than binds it itself: its own {field} does not reach as far."),
        )),
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
    fn what_only_owners_hold_is_given_as_an_owner_is_made() {
        let mut owner = ctx(Role::Owner, None);
        owner.actor.kind = ActorKind::User;
        let mut key = ctx(Role::Admin, None);
        key.actor.kind = ActorKind::ApiKey;
        for (permission, _) in permission::CATALOGUE {
            let given = [(*permission).to_owned()];
            let expected = if Role::Admin.allows(permission) { Ok(()) } else { Err(Code::SignInAgain) };
            for stale in [&owner, &key] {
                assert_eq!(fresh_for(stale, &given).map_err(|e| e.code()), expected, "{permission}");
            }
            let fresh = RequestCtx { sign_in: SignIn::Fresh, ..owner.clone() };
            assert!(fresh_for(&fresh, &given).is_ok(), "{permission}");
        }
    }

    #[test]
    fn an_invitation_needs_who_may_invite() {
        let may = |ctx: &RequestCtx, role, permissions: &[&str]| {
            let permissions: Vec<String> = permissions.iter().map(|p| (*p).to_owned()).collect();
            may_invite(ctx, role, &permissions).is_ok()
        };
        assert!(may(&ctx(Role::Owner, None), Role::Owner, &["billing.read"]));
        assert!(may(&ctx(Role::Admin, None), Role::Admin, &["audit.read"]));
        assert!(!may(&ctx(Role::Admin, None), Role::Owner, &[]));
        assert!(!may(&ctx(Role::Admin, None), Role::Viewer, &["billing.read"]));
        assert!(!may(&ctx(Role::Member, None), Role::Viewer, &[]), "who may invite nobody any more");
        assert!(!may(&ctx(Role::Admin, Some(&["members.write"])), Role::Viewer, &[]));
    }

    #[test]
    fn a_key_frees_nobody() {
        let at = |seconds: i64| DateTime::from_timestamp(seconds, 0);
        let bounds = |networks: &[&str], a_minute, end: Option<i64>| Bounds {
            networks: networks.iter().map(|n| (*n).to_owned()).collect(),
            requests_per_minute: a_minute,
            expires_at: end.and_then(at),
        };
        let own = bounds(&["10.0.0.0/8"], Some(10), Some(100));
        for given in [own.clone(), bounds(&["10.1.0.0/16", "10.2.3.4/32"], Some(1), Some(99))] {
            assert!(keep_within(&own, None, &given).is_ok(), "{given:?}");
            assert!(keep_within(&Bounds::default(), None, &given).is_ok(), "an unbound one gives anything");
        }
        for (given, field) in [
            (bounds(&[], Some(10), Some(100)), "allowed_networks"),
            (bounds(&["10.0.0.0/8", "192.0.2.1/32"], Some(10), Some(100)), "allowed_networks"),
            (bounds(&["10.0.0.0/8"], None, Some(100)), "requests_per_minute"),
            (bounds(&["10.0.0.0/8"], Some(11), Some(100)), "requests_per_minute"),
            (bounds(&["10.0.0.0/8"], Some(10), None), "expires_at"),
            (bounds(&["10.0.0.0/8"], Some(10), Some(101)), "expires_at"),
        ] {
            assert_eq!(given.beyond(&own), [field], "{given:?}");
            assert_eq!(keep_within(&own, None, &given).unwrap_err().code(), Code::PermissionDenied);
            assert!(keep_within(&own, Some(&own), &given).is_err(), "not to itself either");
            assert!(keep_within(&own, Some(&given), &given).is_ok(), "what another has, it was not given");
        }
        // Of a wider one it may take something away, without giving it all that it lacks.
        let wide = bounds(&[], None, None);
        assert!(keep_within(&own, Some(&wide), &bounds(&[], Some(20), None)).is_ok());
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

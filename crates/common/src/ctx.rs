//! Who asks, where, and what they may: the first argument of everything that touches data.

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::error::{Code, Error, Result};
use crate::id::{OrgId, RequestId};
use crate::idempotency::Idempotency;
use crate::permission::{self, Role};

/// What acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// A person.
    User,
    /// An organization's key.
    ApiKey,
    /// One of our operators.
    Operator,
    /// The runner in a Sprite.
    Runner,
    /// One of our services.
    Service,
    /// Nobody known.
    Anonymous,
}

impl ActorKind {
    /// The name in the API and the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ApiKey => "api_key",
            Self::Operator => "operator",
            Self::Runner => "runner",
            Self::Service => "service",
            Self::Anonymous => "anonymous",
        }
    }
}

/// Who acts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// What it is.
    pub kind: ActorKind,
    /// `user_…`, `key_…`, `sprite_…`, or a service's or operator's name.
    pub id: String,
    /// For people to read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// How far an organization's life goes on. Reading works in every one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrgState {
    /// Everything works.
    #[default]
    Active,
    /// Work and changes wait.
    Suspended,
    /// The same, until it is purged.
    Deleting,
}

impl OrgState {
    /// The state of that name in the directory; none: there is no such organization for anybody.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "active" => Some(Self::Active),
            "suspended" => Some(Self::Suspended),
            "deleting" => Some(Self::Deleting),
            _ => None,
        }
    }

    /// Refuses changes where they wait.
    pub fn require_active(self) -> Result<()> {
        match self {
            Self::Active => Ok(()),
            Self::Suspended => Err(Error::new(
                Code::OrgSuspended,
                "The organization is suspended: reading works, changes do not. GET /v1/orgs/{org_id} says why.",
            )),
            Self::Deleting => Err(Error::new(
                Code::OrgDeleting,
                "The organization is to be deleted: reading works, changes do not. An owner can restore it.",
            )),
        }
    }

    fn is_active(&self) -> bool {
        *self == Self::Active
    }
}

/// How the actor showed who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignIn {
    /// By a key or token: an organization's, or a person's that was made longer ago.
    #[default]
    Key,
    /// By a browser that signed in within the last 15 minutes, or a person's key that was made within them.
    Fresh,
    /// By a browser that signed in longer ago.
    Old,
}

/// So long a sign-in is fresh.
const FRESH: Duration = Duration::minutes(15);

impl SignIn {
    /// Of a browser that signed in then.
    pub fn of_browser(at: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        if now - at < FRESH { Self::Fresh } else { Self::Old }
    }

    /// Of a person's key that was made then: making it needed a fresh sign-in, so it is as fresh as its making.
    pub fn of_key(at: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        if now - at < FRESH { Self::Fresh } else { Self::Key }
    }

    fn is_key(&self) -> bool {
        *self == Self::Key
    }
}

/// The context of one request or one background step. Services get it from the signed token alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestCtx {
    /// The organization acted in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<OrgId>,
    /// How far that organization's life goes on.
    #[serde(default, skip_serializing_if = "OrgState::is_active")]
    pub org_state: OrgState,
    /// Who acts.
    pub actor: Actor,
    /// The actor's role in the organization.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "role_name")]
    pub role: Option<Role>,
    /// Permissions that custom roles add to the role.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<String>,
    /// Narrows role and grants to these permissions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// How the actor showed who they are.
    #[serde(default, skip_serializing_if = "SignIn::is_key")]
    pub sign_in: SignIn,
    /// The request this is part of, as in `X-Request-Id`. It travels beside the token: see [`crate::token`].
    #[serde(skip)]
    pub request_id: String,
    /// The request may come again, and is to be answered as it was. Travels beside the token.
    #[serde(skip)]
    pub idempotency: Option<Idempotency>,
}

mod role_name {
    use super::Role;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(role: &Option<Role>, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(role.map_or("", Role::as_str))
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Role>, D::Error> {
        let name = String::deserialize(d)?;
        Role::parse(&name).map(Some).ok_or_else(|| serde::de::Error::custom("unknown role"))
    }
}

impl RequestCtx {
    /// The context of a service that acts by itself.
    pub fn service(name: &str, clock: &dyn Clock) -> Self {
        Self {
            tenant: None,
            org_state: OrgState::Active,
            actor: Actor { kind: ActorKind::Service, id: name.to_owned(), name: String::new() },
            role: None,
            grants: Vec::new(),
            scopes: None,
            sign_in: SignIn::Key,
            request_id: RequestId::new(clock).to_string(),
            idempotency: None,
        }
    }

    /// The same, in an organization.
    #[must_use]
    pub fn for_tenant(mut self, org: OrgId) -> Self {
        self.tenant = Some(org);
        self
    }

    /// The same, as part of another request.
    #[must_use]
    pub fn with_request_id(mut self, request_id: &str) -> Self {
        request_id.clone_into(&mut self.request_id);
        self
    }

    /// The organization; an internal error when there is none, which a policy should have excluded.
    pub fn tenant(&self) -> Result<&OrgId> {
        self.tenant.as_ref().ok_or_else(|| Error::internal("this context names no organization"))
    }

    /// Whether role, grants and scopes allow a permission. Without a role: no.
    pub fn may(&self, permission: &str) -> bool {
        let granted = || permission::is_known(permission) && self.grants.iter().any(|g| g == permission);
        self.role.is_some_and(|role| role.allows(permission) || granted())
            && self.scopes.as_ref().is_none_or(|scopes| scopes.iter().any(|s| s == permission))
    }

    /// Refuses who may not, naming the permission that is missing.
    pub fn require(&self, permission: &str) -> Result<()> {
        if self.may(permission) { Ok(()) } else { Err(Error::lacks(permission)) }
    }

    /// Refuses who did not show a moment ago that they are a person who may, and says what to do.
    pub fn require_fresh(&self) -> Result<()> {
        let detail = match (self.sign_in, self.actor.kind) {
            (SignIn::Fresh, ActorKind::User) => return Ok(()),
            (_, ActorKind::User) if self.sign_in == SignIn::Old => {
                "You signed in more than 15 minutes ago. Sign in again, then repeat this."
            }
            (_, ActorKind::User) => {
                "This key was made more than 15 minutes ago. Sign in again, or make a new key (nitejar login does), then repeat this."
            }
            _ => {
                "A person must do this, who signed in within the last 15 minutes; an organization's key can't."
            }
        };
        Err(Error::new(Code::SignInAgain, detail))
    }

    /// Refuses a browser that signed in longer ago. Keys are not asked.
    pub fn require_fresh_browser(&self) -> Result<()> {
        if self.sign_in == SignIn::Old { self.require_fresh() } else { Ok(()) }
    }

    /// Refuses what is no person.
    pub fn require_user(&self) -> Result<&str> {
        if self.actor.kind == ActorKind::User {
            Ok(&self.actor.id)
        } else {
            Err(Error::new(
                Code::PermissionDenied,
                "Only a person can do this; an API key of an organization can't.",
            ))
        }
    }
}

//! Typed, sortable ids: `agent_01jd…`, a prefix and a UUIDv7 in Crockford's base 32 (the TypeID format).
//!
//! ```
//! # use nitejar_common::{clock::SystemClock, id::OrgId};
//! let id = OrgId::new(&SystemClock);
//! assert_eq!(id.as_str().parse::<OrgId>().unwrap(), id);
//! assert!("user_01h455vb4pex5vsknk084sn02q".parse::<OrgId>().is_err());
//! ```

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::Clock;

/// What an id is of.
pub trait Kind: 'static {
    /// Before the underscore.
    const PREFIX: &'static str;
}

/// An id of one kind. Cheap to clone; ordered by creation.
pub struct Id<K>(Arc<str>, PhantomData<fn() -> K>);

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $alias:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $kind {}
        impl Kind for $kind { const PREFIX: &'static str = $prefix; }
        $(#[$doc])*
        pub type $alias = Id<$kind>;
    )*};
}

kinds! {
    /// An organization.
    Org OrgId = "org";
    /// A person.
    User UserId = "user";
    /// A custom role.
    CustomRole RoleId = "role";
    /// An export of an organization.
    Export ExportId = "exp";
    /// An API key.
    Key KeyId = "key";
    /// An invitation.
    Invitation InvitationId = "inv";
    /// A domain.
    Domain DomainId = "dom";
    /// An operator's access to an organization.
    SupportGrant GrantId = "grant";
    /// An agent.
    Agent AgentId = "agent";
    /// A Sprite.
    Sprite SpriteId = "sprite";
    /// An integration.
    Integration IntegrationId = "intg";
    /// A work item.
    WorkItem WorkItemId = "work";
    /// A job.
    Job JobId = "job";
    /// An audit event.
    Event EventId = "evt";
    /// A quota reservation.
    Reservation ReservationId = "rsv";
    /// A browser that is signed in.
    Session SessionId = "session";
    /// A lease of API calls.
    Lease LeaseId = "lease";
    /// A request.
    Request RequestId = "req";
    /// An outbox message.
    Outbox OutboxId = "out";
}

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl<K: Kind> Id<K> {
    /// A new id of this instant.
    pub fn new(clock: &dyn Clock) -> Self {
        let millis = u64::try_from(clock.now().timestamp_millis()).unwrap_or(0);
        let uuid = uuid::Builder::from_unix_timestamp_millis(millis, &crate::rng::bytes::<10>()).into_uuid();
        Self::from_bits(uuid.as_u128())
    }

    /// The id that the same text always gives: for effects that must have one id however often they are repeated.
    pub fn derived(seed: &str) -> Self {
        use sha2::Digest as _;
        let digest = sha2::Sha256::digest(seed.as_bytes());
        let mut bits = [0u8; 16];
        bits.copy_from_slice(&digest[..16]);
        Self::from_bits(u128::from_be_bytes(bits))
    }

    fn from_bits(bits: u128) -> Self {
        let mut text = String::with_capacity(K::PREFIX.len() + 27);
        text.push_str(K::PREFIX);
        text.push('_');
        for i in (0..26).rev() {
            let digit = (bits >> (5 * i)) & 31;
            text.push(char::from(ALPHABET[digit as usize]));
        }
        Self(text.into(), PhantomData)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a text is an id with that prefix: lower case, 26 digits, not above 128 bits.
pub fn is_id(text: &str, prefix: &str) -> bool {
    let Some(digits) = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_')) else {
        return false;
    };
    digits.len() == 26 && digits.bytes().all(|b| ALPHABET.contains(&b)) && digits.as_bytes()[0] <= b'7'
}

/// The text is not an id of that kind.
#[derive(Debug, thiserror::Error)]
#[error("not an id of the form {0}_ and 26 characters")]
pub struct NotAnId(&'static str);

impl<K: Kind> FromStr for Id<K> {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        if is_id(text, K::PREFIX) { Ok(Self(text.into(), PhantomData)) } else { Err(NotAnId(K::PREFIX)) }
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), PhantomData)
    }
}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl<K> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
impl<'de, K: Kind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn the_published_typeid_example_reads_back() {
        // https://github.com/jetify-com/typeid: prefix_01h2xcejqtf2nbrexx3vqjhp41 is 0188bac7-4afa-78aa-bc3b-bd1eef28d881.
        let bits = uuid::Uuid::parse_str("0188bac7-4afa-78aa-bc3b-bd1eef28d881").unwrap().as_u128();
        assert_eq!(OrgId::from_bits(bits).as_str(), "org_01h2xcejqtf2nbrexx3vqjhp41");
    }

    #[test]
    fn ids_sort_by_creation_and_are_strict() {
        let clock = crate::clock::ManualClock::new(SystemClock.now());
        let first = OrgId::new(&*clock);
        clock.advance(chrono::Duration::milliseconds(1));
        assert!(first < OrgId::new(&*clock));
        for wrong in [
            "",
            "org",
            "org_",
            "org_81h2xcejqtf2nbrexx3vqjhp41",
            "ORG_01h2xcejqtf2nbrexx3vqjhp41",
            "org_01h2xcejqtf2nbrexx3vqjhp4l",
            "org_01h2xcejqtf2nbrexx3vqjhp411",
            "user_01h2xcejqtf2nbrexx3vqjhp41",
        ] {
            assert!(wrong.parse::<OrgId>().is_err(), "{wrong}");
        }
    }
}

//! Keys that people and programs present: `njk_` + 43 characters of randomness + 6 of checksum.
//!
//! The checksum lets a leak scanner, and the gateway before it asks anybody, tell a mistyped key from a real one.
//! Only the SHA-256 of a key is ever stored: 256 random bits need no slow hash.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::secret::Secret;

/// What a key opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// The API, as a person or an organization's program: `njk_`.
    Api,
    /// The operators' routes: `njo_`.
    Operator,
    /// The Sprite protocol: `njr_`.
    Runner,
    /// Joining an organization: `nji_`.
    Invitation,
    /// A browser that is signed in: `njs_`, in a cookie.
    Session,
    /// What a link by e-mail holds: `njl_`.
    SignIn,
    /// A browser that asked for a link: `njb_`, in a cookie.
    Browser,
}

impl KeyKind {
    const ALL: [KeyKind; 7] = [
        Self::Api,
        Self::Operator,
        Self::Runner,
        Self::Invitation,
        Self::Session,
        Self::SignIn,
        Self::Browser,
    ];

    /// With the underscore.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Api => "njk_",
            Self::Operator => "njo_",
            Self::Runner => "njr_",
            Self::Invitation => "nji_",
            Self::Session => "njs_",
            Self::SignIn => "njl_",
            Self::Browser => "njb_",
        }
    }
}

const RANDOM: usize = 43;
const CHECK: usize = 6;

/// A new key.
pub fn generate(kind: KeyKind) -> Secret {
    from_random(kind, crate::rng::bytes())
}

/// The key of given random bytes, which a caller may derive: the same bytes give the same key.
pub fn from_random(kind: KeyKind, random: [u8; 32]) -> Secret {
    let body = format!("{}{}", kind.prefix(), URL_SAFE_NO_PAD.encode(random));
    Secret::new(format!("{body}{}", checksum(&body)))
}

/// The kind of a well-formed key. Says nothing about whether the key exists.
pub fn parse(text: &str) -> Option<KeyKind> {
    let kind = KeyKind::ALL.into_iter().find(|k| text.starts_with(k.prefix()))?;
    if text.len() != kind.prefix().len() + RANDOM + CHECK || !text.is_ascii() {
        return None;
    }
    let (body, check) = text.split_at(text.len() - CHECK);
    (checksum(body) == check).then_some(kind)
}

/// What is stored and looked up.
pub fn sha256(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// The first characters, which people recognize a key by.
pub fn display_prefix(key: &Secret) -> String {
    key.expose().chars().take(12).collect()
}

fn checksum(body: &str) -> String {
    hex::encode(&Sha256::digest(body.as_bytes())[..CHECK / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_a_changed_one_does_not() {
        for kind in KeyKind::ALL {
            let key = generate(kind);
            assert_eq!(parse(key.expose()), Some(kind));
            let mut changed = key.expose().to_owned();
            let last = changed.pop().unwrap();
            changed.push(if last == '0' { '1' } else { '0' });
            assert_eq!(parse(&changed), None);
            assert_eq!(parse(&key.expose()[1..]), None);
        }
        assert_eq!(parse(""), None);
        assert_eq!(parse("njk_ä"), None);
    }
}

//! `Idempotency-Key`: what travels from the gateway to the service that answers, beside the token.
//!
//! Everything is derived from the caller's credential and the key that the caller chose, and the credential is stored
//! nowhere. So nobody else can name a kept answer, and what is kept can't be read by us either.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderValue;
use sha2::Sha256;
use zeroize::Zeroizing;

/// Carries it between services.
pub const HEADER: &str = "x-nitejar-idempotency";
/// Says that an answer is an earlier one.
pub const REPLAYED: &str = "x-nitejar-replayed";
/// How long an answer is kept.
pub const KEPT: chrono::Duration = chrono::Duration::hours(24);

/// One request that may come again.
#[derive(Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Names the kept answer.
    pub id: [u8; 32],
    /// What was asked: path, query and body. Another request must not have the same key.
    pub request: [u8; 32],
    /// Encrypts the kept answer, which may show a secret.
    pub seal: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Idempotency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Idempotency")
    }
}

impl Idempotency {
    /// Of a caller's key. `credential`: the secret that the caller showed; `request`: the hash of what is asked.
    pub fn new(credential: &str, key: &str, request: [u8; 32]) -> Self {
        let derive = |purpose: &str| -> [u8; 32] {
            let mut mac = Hmac::<Sha256>::new_from_slice(credential.as_bytes()).expect("HMAC takes any key");
            mac.update(purpose.as_bytes());
            mac.update(key.as_bytes());
            mac.finalize().into_bytes().into()
        };
        Self { id: derive("answer|"), request, seal: Zeroizing::new(derive("seal|")) }
    }

    /// The header's value; it is kept out of logs.
    pub fn to_header(&self) -> HeaderValue {
        let all = Zeroizing::new([self.id, self.request, *self.seal].concat());
        let mut value = HeaderValue::from_str(&URL_SAFE_NO_PAD.encode(&*all)).expect("base64 is ASCII");
        value.set_sensitive(true);
        value
    }

    /// Sends it with a call.
    pub fn attach<T>(&self, call: &mut tonic::Request<T>) {
        let mut headers = std::mem::take(call.metadata_mut()).into_headers();
        headers.insert(HEADER, self.to_header());
        *call.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
    }

    /// Reads the header; none when it is not one of ours.
    pub fn from_header(value: &HeaderValue) -> Option<Self> {
        let all = Zeroizing::new(URL_SAFE_NO_PAD.decode(value.as_bytes()).ok()?);
        let part = |n: usize| all.get(n * 32..(n + 1) * 32)?.try_into().ok();
        (all.len() == 96).then_some(())?;
        Some(Self { id: part(0)?, request: part(1)?, seal: Zeroizing::new(part(2)?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_the_header_and_shows_nothing() {
        let one = Idempotency::new("njk_a", "order-1", [7; 32]);
        assert_eq!(Idempotency::from_header(&one.to_header()), Some(one.clone()));
        assert!(!format!("{one:?} {:?}", one.to_header()).contains(&hex::encode(&one.seal[..4])));
        assert_eq!(Idempotency::from_header(&HeaderValue::from_static("AAAA")), None);
    }

    #[test]
    fn another_credential_or_key_names_another_answer() {
        let one = Idempotency::new("njk_a", "order-1", [7; 32]);
        for other in [("njk_b", "order-1"), ("njk_a", "order-2")] {
            let other = Idempotency::new(other.0, other.1, [7; 32]);
            assert!(other.id != one.id && other.seal != one.seal && other.id != *other.seal);
        }
    }
}

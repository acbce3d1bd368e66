//! Keys of the gateway's own, all made from its signing key: its replicas share them, and no other service or database has them.

use hmac::{Hmac, KeyInit as _, Mac as _};
use nitejar_common::secret::Secret;
use sha2::Sha256;
use zeroize::Zeroizing;

/// A key for one purpose.
#[derive(Clone)]
pub(crate) struct OwnKey(Zeroizing<[u8; 32]>);

impl OwnKey {
    pub(crate) fn new(signing_key: &Secret, purpose: &str) -> Self {
        let mut mac = mac(signing_key.expose().as_bytes());
        mac.update(purpose.as_bytes());
        Self(Zeroizing::new(mac.finalize().into_bytes().into()))
    }

    /// Begins a signature.
    pub(crate) fn mac(&self) -> Hmac<Sha256> {
        mac(self.0.as_slice())
    }

    /// What a text becomes with this key, in hexadecimal.
    pub(crate) fn of(&self, text: &str) -> String {
        let mut mac = self.mac();
        mac.update(text.as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes any key")
}

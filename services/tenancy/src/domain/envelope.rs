//! Secrets at rest: AES-256-GCM, a data key an organization wrapped by the master key, and everything bound to its place,
//! so that a row copied to another name, version or tenant does not open.

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nitejar_common::error::{Error, Result};
use nitejar_common::id::OrgId;
use nitejar_common::secret::Secret;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

const NONCE: usize = 12;

/// Wraps data keys. Comes from the configuration.
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey")
    }
}

/// The master keys of the configuration: the newest wraps, earlier ones still open what they wrapped.
#[derive(Debug)]
pub struct MasterKeys {
    newest: MasterKey,
    earlier: Vec<MasterKey>,
}

/// Encrypts one organization's secrets.
pub struct DataKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataKey")
    }
}

/// Where a secret's value stands.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The organization.
    pub org: &'a OrgId,
    /// The secret.
    pub name: &'a str,
    /// Its version.
    pub version: i32,
}

impl Place<'_> {
    /// Tenant, table, column, row: none of the parts can hold the separator.
    fn aad(self) -> Vec<u8> {
        format!("{}|secrets|ciphertext|{}|{}", self.org, self.name, self.version).into_bytes()
    }
}

impl MasterKey {
    /// From the configuration's text: base64 of 32 bytes.
    pub fn parse(text: &Secret) -> Option<Self> {
        let bytes = Zeroizing::new(STANDARD.decode(text.expose()).ok()?);
        Some(Self(Zeroizing::new(bytes.as_slice().try_into().ok()?)))
    }

    /// Names it without showing it.
    pub fn id(&self) -> String {
        let digest =
            Sha256::new().chain_update(b"nitejar master key").chain_update(self.0.as_slice()).finalize();
        hex::encode(&digest[..8])
    }

    /// A new data key of an organization, and its wrapped form.
    pub fn new_data_key(&self, org: &OrgId) -> Result<(DataKey, Vec<u8>)> {
        let key = DataKey(Zeroizing::new(nitejar_common::rng::bytes()));
        let wrapped = seal(&self.0, key.0.as_slice(), &Self::aad(org))?;
        Ok((key, wrapped))
    }

    /// Unwraps an organization's data key.
    pub fn unwrap_data_key(&self, org: &OrgId, wrapped: &[u8]) -> Result<DataKey> {
        let bytes = open(&self.0, wrapped, &Self::aad(org))?;
        let key = bytes.as_slice().try_into().map_err(|_| Error::internal("a data key has 32 bytes"))?;
        Ok(DataKey(Zeroizing::new(key)))
    }

    /// Encrypts a mail that waits to be sent.
    pub fn seal_mail(&self, mail: &[u8]) -> Result<Vec<u8>> {
        seal(&self.0, mail, b"outbox|mail")
    }

    /// Decrypts it.
    pub fn open_mail(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        open(&self.0, sealed, b"outbox|mail")
    }

    /// Seals what a backup of an organization holds, told by its digest: who has no master key can't make one.
    pub fn seal_archive(&self, org: &OrgId, digest: &[u8; 32]) -> Result<Vec<u8>> {
        seal(&self.0, digest, format!("{org}|archive|seal").as_bytes())
    }

    fn aad(org: &OrgId) -> Vec<u8> {
        format!("{org}|data_keys|wrapped").into_bytes()
    }
}

impl MasterKeys {
    /// The newest one first.
    pub fn new(newest: MasterKey, earlier: Vec<MasterKey>) -> Self {
        Self { newest, earlier }
    }

    /// Names the newest.
    pub fn id(&self) -> String {
        self.newest.id()
    }

    /// A new data key of an organization, and its wrapped form.
    pub fn new_data_key(&self, org: &OrgId) -> Result<(DataKey, Vec<u8>)> {
        self.newest.new_data_key(org)
    }

    /// Unwraps an organization's data key, whichever wrapped it.
    pub fn unwrap_data_key(&self, org: &OrgId, wrapped: &[u8]) -> Result<DataKey> {
        self.any(|key| key.unwrap_data_key(org, wrapped))
    }

    /// Wraps a data key with the newest, whichever wrapped it before.
    pub fn rewrap(&self, org: &OrgId, wrapped: &[u8]) -> Result<Vec<u8>> {
        let key = self.unwrap_data_key(org, wrapped)?;
        seal(&self.newest.0, key.0.as_slice(), &MasterKey::aad(org))
    }

    /// Encrypts a mail that waits to be sent.
    pub fn seal_mail(&self, mail: &[u8]) -> Result<Vec<u8>> {
        self.newest.seal_mail(mail)
    }

    /// Whether there are any but the newest.
    pub fn has_earlier(&self) -> bool {
        !self.earlier.is_empty()
    }

    /// Whether the newest one encrypted a waiting mail.
    pub fn newest_sealed(&self, sealed: &[u8]) -> bool {
        self.newest.open_mail(sealed).is_ok()
    }

    /// Encrypts a waiting mail with the newest, whichever encrypted it before.
    pub fn reseal_mail(&self, sealed: &[u8]) -> Result<Vec<u8>> {
        self.seal_mail(&self.open_mail(sealed)?)
    }

    /// Decrypts it.
    pub fn open_mail(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        self.any(|key| key.open_mail(sealed))
    }

    /// Seals what a backup of an organization holds.
    pub fn seal_archive(&self, org: &OrgId, digest: &[u8; 32]) -> Result<Vec<u8>> {
        self.newest.seal_archive(org, digest)
    }

    /// Whether one of these keys sealed a backup of that organization with that digest.
    pub fn sealed_archive(&self, org: &OrgId, seal: &[u8], digest: &[u8; 32]) -> bool {
        let aad = format!("{org}|archive|seal");
        self.any(|key| open(&key.0, seal, aad.as_bytes())).is_ok_and(|sealed| sealed.as_slice() == digest)
    }

    fn any<T>(&self, open: impl Fn(&MasterKey) -> Result<T>) -> Result<T> {
        let first = open(&self.newest);
        if first.is_ok() {
            return first;
        }
        self.earlier.iter().map(open).find(Result::is_ok).unwrap_or(first)
    }
}

impl DataKey {
    /// Encrypts a value for its place.
    pub fn seal(&self, value: &Secret, place: Place<'_>) -> Result<Vec<u8>> {
        seal(&self.0, value.expose().as_bytes(), &place.aad())
    }

    /// Decrypts what stands at a place.
    pub fn open(&self, ciphertext: &[u8], place: Place<'_>) -> Result<Secret> {
        let bytes = open(&self.0, ciphertext, &place.aad())?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Error::internal("a secret is UTF-8"))?;
        Ok(Secret::new(text))
    }
}

fn seal(key: &[u8; 32], message: &[u8], aad: &[u8]) -> Result<Vec<u8>> {
    let nonce: [u8; NONCE] = nitejar_common::rng::bytes();
    let cipher = Aes256Gcm::new(key.into());
    let sealed = cipher
        .encrypt(&Nonce::from(nonce), Payload { msg: message, aad })
        .map_err(|_| Error::internal("encryption failed"))?;
    Ok([nonce.as_slice(), &sealed].concat())
}

fn open(key: &[u8; 32], sealed: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let fail = || Error::internal("a secret does not open: wrong key, changed, or not at its place");
    let (nonce, message) = sealed.split_at_checked(NONCE).ok_or_else(fail)?;
    let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| fail())?;
    let cipher = Aes256Gcm::new(key.into());
    let opened = cipher.decrypt(&Nonce::from(nonce), Payload { msg: message, aad }).map_err(|_| fail())?;
    Ok(Zeroizing::new(opened))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nitejar_common::clock::SystemClock;

    #[test]
    fn a_value_opens_at_its_place_only() {
        let master = MasterKey(Zeroizing::new([7; 32]));
        let (a, b) = (OrgId::new(&SystemClock), OrgId::new(&SystemClock));
        let (key, wrapped) = master.new_data_key(&a).unwrap();
        let place = Place { org: &a, name: "TOKEN", version: 1 };
        let sealed = key.seal(&Secret::new("hush"), place).unwrap();
        assert!(!sealed.windows(4).any(|w| w == b"hush"));
        let again = master.unwrap_data_key(&a, &wrapped).unwrap();
        assert_eq!(again.open(&sealed, place).unwrap().expose(), "hush");
        assert!(key.open(&sealed, Place { name: "OTHER", ..place }).is_err());
        assert!(key.open(&sealed, Place { version: 2, ..place }).is_err());
        assert!(key.open(&sealed, Place { org: &b, ..place }).is_err());
        assert!(master.unwrap_data_key(&b, &wrapped).is_err());
        assert!(MasterKey(Zeroizing::new([8; 32])).unwrap_data_key(&a, &wrapped).is_err());
        for i in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[i] ^= 1;
            assert!(key.open(&changed, place).is_err(), "byte {i}");
        }
        assert!(key.open(b"short", place).is_err());
    }

    #[test]
    fn a_master_key_is_changed_and_then_opens_nothing() {
        let key = |byte| MasterKey(Zeroizing::new([byte; 32]));
        let org = OrgId::new(&SystemClock);
        let old = MasterKeys::new(key(1), Vec::new());
        let (data_key, wrapped) = old.new_data_key(&org).unwrap();
        let place = Place { org: &org, name: "TOKEN", version: 1 };
        let sealed = data_key.seal(&Secret::new("hush"), place).unwrap();
        let mail = old.seal_mail(b"mail").unwrap();
        // While both are there, everything opens.
        let both = MasterKeys::new(key(2), vec![key(3), key(1)]);
        assert_eq!(
            both.unwrap_data_key(&org, &wrapped).unwrap().open(&sealed, place).unwrap().expose(),
            "hush"
        );
        assert_eq!(both.open_mail(&mail).unwrap().as_slice(), b"mail");
        let anew = both.rewrap(&org, &wrapped).unwrap();
        assert!(both.rewrap(&OrgId::new(&SystemClock), &wrapped).is_err(), "nor for another organization");
        // Afterwards the new one alone does, and the old one does not.
        let new = MasterKeys::new(key(2), Vec::new());
        assert_eq!(new.unwrap_data_key(&org, &anew).unwrap().open(&sealed, place).unwrap().expose(), "hush");
        assert!(old.unwrap_data_key(&org, &anew).is_err());
        assert_ne!(old.id(), new.id());
    }
}

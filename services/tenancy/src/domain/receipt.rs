//! The receipt of a purge: what was deleted, signed, so that it can be shown to others and checked without us.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Duration, Utc};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use nitejar_common::secret::Secret;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::store::receipts::ReceiptRow;

/// Says what a signature of this key is of: it signs nothing else.
const KIND: &str = "nitejar.purge_receipt.v1";

/// What one service deleted.
#[derive(Clone, Debug, Serialize)]
pub struct Store {
    /// The service.
    pub service: String,
    /// Its tables, with how many rows of the organization each had.
    pub tables: Vec<Table>,
}

/// A table's share.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// `jobs`, or `control.job_pointers` where organizations share it.
    pub name: String,
    /// Rows deleted.
    pub rows: i64,
}

/// What is kept all the same.
#[derive(Clone, Debug, Serialize)]
pub struct Kept {
    /// What.
    pub what: &'static str,
    /// Why.
    pub why: &'static str,
    /// Until when; none: for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

/// All that a receipt says.
#[derive(Clone, Debug, Serialize)]
pub struct Receipt {
    /// Always [`KIND`].
    #[serde(rename = "type")]
    kind: &'static str,
    /// The organization.
    pub org_id: String,
    /// Its last slug.
    pub slug: String,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// Who asked for its deletion.
    pub requested_by: String,
    /// When.
    pub requested_at: Option<DateTime<Utc>>,
    /// When the last row was deleted.
    pub purged_at: DateTime<Utc>,
    /// What was deleted.
    pub deleted: Vec<Store>,
    /// What is kept.
    pub kept: Vec<Kept>,
    /// When the last backup that holds any of it is gone.
    pub backups_expire_at: DateTime<Utc>,
}

impl Receipt {
    /// Of an organization whose last row is gone.
    pub fn new(
        org: &crate::store::orgs::OrgsRow,
        deleted: Vec<Store>,
        now: DateTime<Utc>,
        backups: Duration,
    ) -> Self {
        let forever = |what, why| Kept { what, why, until: None };
        let until = |what, why, end: Duration| Kept { what, why, until: Some(now + end) };
        Self {
            kind: KIND,
            org_id: org.id.clone(),
            slug: org.slug.clone(),
            created_at: org.created_at,
            requested_by: org.deletion_requested_by.clone(),
            requested_at: org.deletion_requested_at,
            purged_at: now,
            deleted,
            kept: vec![
                forever(
                    "this receipt, with the ids of those who owned the organization",
                    "proof of the deletion",
                ),
                forever("the organization's id and times", "its id is never given again"),
                forever(
                    "platform audit events that name its id",
                    "who decided what, for our own accountability",
                ),
                forever("accounts of its members", "they are the people's own, who can delete them"),
                until("its slugs", "links to it must not lead to somebody else", SLUGS_HELD),
                until(
                    "answers to repeated requests, sealed with the callers' keys",
                    "forgotten by age",
                    Duration::days(1),
                ),
            ],
            backups_expire_at: now + backups,
        }
    }
}

/// For so long nobody else gets a purged organization's slugs.
pub const SLUGS_HELD: Duration = Duration::days(90);

/// Signs receipts.
pub struct ReceiptKey(SigningKey);

impl std::fmt::Debug for ReceiptKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReceiptKey({})", self.id())
    }
}

/// The base64 of 32 bytes.
fn decode(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text.trim()).ok()?.try_into().ok()
}

/// A public key's name: the first 16 hex digits of its SHA-256.
fn id_of(public: &[u8; 32]) -> String {
    hex::encode(&Sha256::digest(public)[..8])
}

/// A public key from the configuration: (id, base64).
pub fn public_key(text: &str) -> Option<(String, String)> {
    let bytes = decode(text)?;
    VerifyingKey::from_bytes(&bytes).ok()?;
    Some((id_of(&bytes), STANDARD.encode(bytes)))
}

impl ReceiptKey {
    /// From the configuration's text: base64 of 32 bytes.
    pub fn parse(text: &Secret) -> Option<Self> {
        Some(Self(SigningKey::from_bytes(&decode(text.expose())?)))
    }

    /// Its public half's name.
    pub fn id(&self) -> String {
        id_of(&self.0.verifying_key().to_bytes())
    }

    /// Its public half, base64.
    pub fn public(&self) -> String {
        STANDARD.encode(self.0.verifying_key().to_bytes())
    }

    /// Signs a receipt's text as it stands.
    pub fn sign(&self, receipt: &Receipt) -> serde_json::Result<ReceiptRow> {
        let payload = serde_json::to_string(receipt)?;
        let signature = self.0.sign(payload.as_bytes()).to_bytes().to_vec();
        Ok(ReceiptRow { payload, signature, key_id: self.id() })
    }
}

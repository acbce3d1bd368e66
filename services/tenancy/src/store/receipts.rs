//! Receipts of purges, in `control`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// A signed receipt.
#[derive(Clone, Debug, FromRow)]
pub struct ReceiptRow {
    /// JSON, as signed.
    pub payload: String,
    /// Ed25519.
    pub signature: Vec<u8>,
    /// Which key.
    pub key_id: String,
}

impl ReceiptRow {
    /// As a file: what `GET /v1/purge-receipts/{org}` answers.
    pub fn document(&self) -> serde_json::Result<String> {
        let signature = STANDARD.encode(&self.signature);
        serde_json::to_string_pretty(
            &serde_json::json!({ "payload": self.payload, "signature": signature, "key_id": self.key_id }),
        )
    }
}

/// Keeps one.
pub async fn insert(
    conn: &mut PgConnection,
    org: &str,
    owners: &[&str],
    receipt: &ReceiptRow,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO purge_receipts (org_id, owners, payload, signature, key_id, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(org)
    .bind(owners)
    .bind(&receipt.payload)
    .bind(&receipt.signature)
    .bind(&receipt.key_id)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// That of an organization.
pub async fn of_org(conn: &mut PgConnection, org: &str) -> sqlx::Result<Option<ReceiptRow>> {
    sqlx::query_as("SELECT payload, signature, key_id FROM purge_receipts WHERE org_id = $1")
        .bind(org)
        .fetch_optional(conn)
        .await
}

/// That of an organization which this person owned.
pub async fn get(conn: &mut PgConnection, org: &str, user: &str) -> sqlx::Result<Option<ReceiptRow>> {
    sqlx::query_as(
        "SELECT payload, signature, key_id FROM purge_receipts WHERE org_id = $1 AND $2 = ANY (owners)",
    )
    .bind(org)
    .bind(user)
    .fetch_optional(conn)
    .await
}

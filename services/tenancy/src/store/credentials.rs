//! Who is behind a key, in `control`. The hottest question of all: one statement.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// A living credential and the role it gives where it wants to act.
#[derive(Clone, Debug, FromRow)]
pub struct CredentialRow {
    /// `key_…`
    pub key_id: String,
    /// The key's name.
    pub name: String,
    /// The person of a personal key.
    pub user_id: Option<String>,
    /// That person's name.
    pub user_name: Option<String>,
    /// The organization of an organization's key.
    pub org_id: Option<String>,
    /// Its role.
    pub role: Option<String>,
    /// Its scopes; empty: not narrowed.
    pub scopes: Option<Vec<String>>,
    /// The person's role in the organization asked for.
    pub member_role: Option<String>,
    /// Whether the organization asked for is active.
    pub active: bool,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// Last noted use.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// The credential with that hash, unless it is revoked or expired.
pub async fn resolve(
    conn: &mut PgConnection,
    sha256: &[u8],
    org: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<CredentialRow>> {
    sqlx::query_as(
        "SELECT c.key_id, c.name, c.user_id, u.name AS user_name, c.org_id, c.role, c.scopes, m.role AS member_role, \
         EXISTS (SELECT FROM control.orgs o WHERE o.id = $2 AND o.state = 'active') AS active, c.expires_at, c.last_used_at \
         FROM control.credentials c \
         LEFT JOIN control.users u ON u.id = c.user_id \
         LEFT JOIN control.memberships m ON m.user_id = c.user_id AND m.org_id = $2 \
         WHERE c.sha256 = $1 AND c.revoked_at IS NULL AND (c.expires_at IS NULL OR c.expires_at > $3)",
    )
    .bind(sha256)
    .bind(org)
    .bind(now)
    .fetch_optional(conn)
    .await
}

/// Adds a personal key.
pub async fn insert_personal(
    conn: &mut PgConnection,
    sha256: &[u8; 32],
    key_id: &str,
    name: &str,
    user_id: &str,
    expires_at: Option<DateTime<Utc>>,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO credentials (sha256, key_id, name, user_id, expires_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(sha256.as_slice())
    .bind(key_id)
    .bind(name)
    .bind(user_id)
    .bind(expires_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes a use.
pub async fn touch(conn: &mut PgConnection, key_id: &str, at: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("UPDATE credentials SET last_used_at = $2 WHERE key_id = $1")
        .bind(key_id)
        .bind(at)
        .execute(conn)
        .await?;
    Ok(())
}

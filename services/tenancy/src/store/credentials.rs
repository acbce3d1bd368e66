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
    /// What custom roles add to it.
    pub grants: Vec<String>,
    /// The person's role in the organization asked for.
    pub member_role: Option<String>,
    /// What custom roles add to that.
    pub member_grants: Option<Vec<String>>,
    /// Of the organization asked for, while there is one for anybody.
    pub org_state: Option<String>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// Last noted use.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Networks that it may be used from; none: from anywhere.
    pub networks: Vec<String>,
    /// Its own limit.
    pub requests_per_minute: Option<i32>,
}

/// The credential with that hash, unless it is revoked or expired.
pub async fn resolve(
    conn: &mut PgConnection,
    sha256: &[u8],
    org: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<CredentialRow>> {
    sqlx::query_as(
        "SELECT c.key_id, c.name, c.user_id, u.name AS user_name, c.org_id, c.role, c.grants, c.scopes, m.role AS member_role, \
         m.grants AS member_grants, \
         (SELECT o.state FROM control.orgs o WHERE o.id = $2 AND o.state IN ('active', 'suspended', 'deleting')) AS org_state, \
         c.expires_at, c.last_used_at, c.networks, c.requests_per_minute \
         FROM control.credentials c \
         LEFT JOIN control.users u ON u.id = c.user_id \
         LEFT JOIN control.memberships m ON m.user_id = c.user_id AND m.org_id = $2 \
            AND NOT EXISTS (SELECT FROM control.membership_ends e \
                            WHERE e.user_id = c.user_id AND e.org_id = $2 AND e.ended_at >= c.created_at) \
         WHERE c.sha256 = $1 AND c.revoked_at IS NULL AND (c.expires_at IS NULL OR c.expires_at > $3) \
         AND u.deleted_at IS NULL",
    )
    .bind(sha256)
    .bind(org)
    .bind(now)
    .fetch_optional(conn)
    .await
}

/// A personal key without its secret part.
#[derive(Clone, Debug, FromRow)]
pub struct PersonalKey {
    /// `key_…`
    pub key_id: String,
    /// Its first characters.
    pub prefix: String,
    /// What it is for.
    pub name: String,
    /// Whose.
    pub user_id: String,
    /// `user_…`, or the operator's name.
    pub created_by: String,
    /// Until when.
    pub expires_at: Option<DateTime<Utc>>,
    /// Last noted use.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// Networks that it may be used from; none: from anywhere.
    pub networks: Vec<String>,
    /// Its own limit.
    pub requests_per_minute: Option<i32>,
}

/// Adds a personal key.
pub async fn insert_personal(
    conn: &mut PgConnection,
    sha256: &[u8; 32],
    key: &PersonalKey,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO credentials (sha256, key_id, prefix, name, user_id, expires_at, created_at, created_by, networks, \
            requests_per_minute) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(sha256.as_slice())
    .bind(&key.key_id)
    .bind(&key.prefix)
    .bind(&key.name)
    .bind(&key.user_id)
    .bind(key.expires_at)
    .bind(key.created_at)
    .bind(&key.created_by)
    .bind(&key.networks)
    .bind(key.requests_per_minute)
    .execute(conn)
    .await?;
    Ok(())
}

/// How many living keys a locked person has.
pub async fn count_personal(conn: &mut PgConnection, user_id: &str, now: DateTime<Utc>) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "SELECT count(*) FROM credentials \
         WHERE user_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)",
    )
    .bind(user_id)
    .bind(now)
    .fetch_one(conn)
    .await
}

/// A person's living keys after an id.
pub async fn personal(
    conn: &mut PgConnection,
    user_id: &str,
    after: &str,
    most: i64,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<PersonalKey>> {
    sqlx::query_as(
        "SELECT key_id, prefix, name, user_id, created_by, expires_at, last_used_at, created_at, networks, \
            requests_per_minute FROM credentials \
         WHERE user_id = $1 AND key_id > $2 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $4) \
         ORDER BY key_id LIMIT $3",
    )
    .bind(user_id)
    .bind(after)
    .bind(most)
    .bind(now)
    .fetch_all(conn)
    .await
}

/// Ends a person's key: whether it ended now; none when there is no such key.
pub async fn revoke_personal(
    conn: &mut PgConnection,
    user_id: &str,
    key_id: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<bool>> {
    sqlx::query_scalar(
        "WITH was AS (SELECT key_id, revoked_at FROM credentials WHERE user_id = $1 AND key_id = $2 FOR UPDATE) \
         UPDATE credentials c SET revoked_at = coalesce(c.revoked_at, $3) FROM was WHERE c.key_id = was.key_id \
         RETURNING was.revoked_at IS NULL",
    )
    .bind(user_id)
    .bind(key_id)
    .bind(now)
    .fetch_optional(conn)
    .await
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

/// A key, whoever's it is.
#[derive(Clone, Debug, FromRow)]
pub struct Ending {
    /// `key_…`
    pub key_id: String,
    /// What it is for.
    pub name: String,
    /// The person of a personal key.
    pub user_id: Option<String>,
    /// The organization of an organization's key.
    pub org_id: Option<String>,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// How often its owners were to be told of that by now.
    pub due: i32,
}

/// Keys that end within a week, or a day, and whose owners were not told of it. One that was made for a shorter time ends as
/// expected.
pub async fn ending(conn: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<Vec<Ending>> {
    sqlx::query_as(
        "SELECT key_id, name, user_id, org_id, expires_at, due FROM ( \
            SELECT *, CASE WHEN expires_at < $1 + interval '1 day' THEN 2 ELSE 1 END AS due FROM credentials \
            WHERE revoked_at IS NULL AND notices < 2 AND expires_at > $1 AND expires_at < $1 + interval '7 days') c \
         WHERE notices < due AND expires_at - created_at > CASE due WHEN 2 THEN interval '2 days' ELSE interval '8 days' END \
         ORDER BY expires_at LIMIT 100",
    )
    .bind(now)
    .fetch_all(conn)
    .await
}

/// Notes that its owners are told; whether nobody else did so.
pub async fn note_told(conn: &mut PgConnection, key: &Ending) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "UPDATE credentials SET notices = $2 WHERE key_id = $1 AND notices < $2 AND revoked_at IS NULL",
    )
    .bind(&key.key_id)
    .bind(key.due)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The key with that hash, also when it has ended.
pub async fn by_hash(conn: &mut PgConnection, sha256: &[u8; 32]) -> sqlx::Result<Option<Ending>> {
    sqlx::query_as(
        "SELECT key_id, name, user_id, org_id, expires_at, 0 AS due FROM credentials WHERE sha256 = $1",
    )
    .bind(sha256.as_slice())
    .fetch_optional(conn)
    .await
}

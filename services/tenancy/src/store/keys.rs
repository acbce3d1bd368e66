//! An organization's API keys, and the copy in `control` that finds them by their hash.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow, PgConnection};

/// A key without its secret part.
#[derive(Clone, Debug, FromRow)]
pub struct KeyRow {
    /// `key_…`
    pub id: String,
    /// What it is for.
    pub name: String,
    /// Its first characters.
    pub prefix: String,
    /// Its role.
    pub role: String,
    /// Narrows the role; empty: not.
    pub scopes: Vec<String>,
    /// Until when.
    pub expires_at: Option<DateTime<Utc>>,
    /// Since when it is revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// Who made it.
    pub created_by: String,
    /// Networks that it may be used from; none: from anywhere.
    pub networks: Vec<String>,
    /// Its own limit.
    pub requests_per_minute: Option<i32>,
    /// The key that it was made instead of.
    pub replaces: String,
}

impl KeyRow {
    /// Whether it opens anything by now.
    pub fn lives_at(&self, now: DateTime<Utc>) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|at| at > now)
    }
}

const COLUMNS: &str = "id, name, prefix, role, scopes, expires_at, revoked_at, created_at, created_by, networks, \
     requests_per_minute, replaces";

fn select(rest: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("SELECT {COLUMNS} FROM keys {rest}"))
}

/// Adds a key.
pub async fn insert(conn: &mut PgConnection, key: &KeyRow, sha256: &[u8; 32]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO keys (id, name, prefix, role, scopes, expires_at, created_at, created_by, networks, \
            requests_per_minute, replaces) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(&key.id)
    .bind(&key.name)
    .bind(&key.prefix)
    .bind(&key.role)
    .bind(&key.scopes)
    .bind(key.expires_at)
    .bind(key.created_at)
    .bind(&key.created_by)
    .bind(&key.networks)
    .bind(key.requests_per_minute)
    .bind(&key.replaces)
    .execute(&mut *conn)
    .await?;
    sqlx::query("SELECT control.key_put($1, $2, $3, $4, $5, $6, $7, $8, $9)")
        .bind(sha256.as_slice())
        .bind(&key.id)
        .bind(&key.name)
        .bind(&key.role)
        .bind(&key.scopes)
        .bind(key.expires_at)
        .bind(&key.networks)
        .bind(key.requests_per_minute)
        .bind(key.created_at)
        .execute(conn)
        .await?;
    Ok(())
}

/// One key.
pub async fn get(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<KeyRow>> {
    sqlx::query_as(select("WHERE id = $1")).bind(id).fetch_optional(conn).await
}

/// One key, kept from changing until the transaction ends.
pub async fn lock(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<KeyRow>> {
    sqlx::query_as(select("WHERE id = $1 FOR UPDATE")).bind(id).fetch_optional(conn).await
}

/// How many live, and how many of them nobody has replaced: (all, unreplaced). `replacing` is about to be replaced.
pub async fn count(conn: &mut PgConnection, now: DateTime<Utc>, replacing: &str) -> sqlx::Result<(i64, i64)> {
    sqlx::query_as(
        "WITH living AS (SELECT id, replaces FROM keys \
            WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1)) \
         SELECT count(*), count(*) FILTER (WHERE id <> $2 AND id NOT IN (SELECT replaces FROM living)) FROM living",
    )
    .bind(now)
    .bind(replacing)
    .fetch_one(conn)
    .await
}

/// Whether another key was made instead of it.
pub async fn is_replaced(conn: &mut PgConnection, id: &str) -> sqlx::Result<bool> {
    Ok(replacement(conn, id).await?.is_some())
}

/// The key that was made instead of it, the newest if there are several.
pub async fn replacement(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("SELECT id FROM keys WHERE replaces = $1 ORDER BY created_at DESC LIMIT 1")
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// The key that a key's work goes on with: the last of those that were made one instead of another, or itself.
pub async fn successor(conn: &mut PgConnection, id: &str) -> sqlx::Result<String> {
    sqlx::query_scalar(
        "WITH RECURSIVE line AS (SELECT id, created_at FROM keys WHERE id = $1 \
            UNION SELECT k.id, k.created_at FROM keys k JOIN line ON k.replaces = line.id) \
         SELECT coalesce((SELECT id FROM line ORDER BY created_at DESC, id DESC LIMIT 1), $1)",
    )
    .bind(id)
    .fetch_one(conn)
    .await
}

/// Writes a locked key's name, end and limits back.
pub async fn save(conn: &mut PgConnection, key: &KeyRow) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE keys SET name = $2, expires_at = $3, networks = $4, requests_per_minute = $5 WHERE id = $1",
    )
    .bind(&key.id)
    .bind(&key.name)
    .bind(key.expires_at)
    .bind(&key.networks)
    .bind(key.requests_per_minute)
    .execute(&mut *conn)
    .await?;
    sqlx::query("SELECT control.key_change($1, $2, $3, $4, $5)")
        .bind(&key.id)
        .bind(&key.name)
        .bind(key.expires_at)
        .bind(&key.networks)
        .bind(key.requests_per_minute)
        .execute(conn)
        .await?;
    Ok(())
}

/// Keys after an id, each with its last use.
pub async fn list(
    conn: &mut PgConnection,
    after: &str,
    limit: i64,
) -> sqlx::Result<Vec<(KeyRow, Option<DateTime<Utc>>)>> {
    let rows: Vec<KeyRow> = sqlx::query_as(select("WHERE id > $1 ORDER BY id LIMIT $2"))
        .bind(after)
        .bind(limit)
        .fetch_all(&mut *conn)
        .await?;
    let ids: Vec<&str> = rows.iter().map(|k| k.id.as_str()).collect();
    let used: Vec<(String, Option<DateTime<Utc>>)> =
        sqlx::query_as("SELECT key_id, last_used_at FROM control.keys_last_used($1)")
            .bind(&ids)
            .fetch_all(conn)
            .await?;
    let used: std::collections::HashMap<_, _> = used.into_iter().collect();
    Ok(rows.into_iter().map(|k| (used.get(&k.id).copied().flatten(), k)).map(|(at, k)| (k, at)).collect())
}

/// Revokes a key; none when there is no such key, false when it was revoked before.
pub async fn revoke(conn: &mut PgConnection, id: &str, at: DateTime<Utc>) -> sqlx::Result<Option<bool>> {
    let done = sqlx::query("UPDATE keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL")
        .bind(id)
        .bind(at)
        .execute(&mut *conn)
        .await?;
    if done.rows_affected() == 1 {
        sqlx::query("SELECT control.key_revoke($1, $2)").bind(id).bind(at).execute(conn).await?;
        return Ok(Some(true));
    }
    let exists: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM keys WHERE id = $1)").bind(id).fetch_one(conn).await?;
    Ok(exists.then_some(false))
}

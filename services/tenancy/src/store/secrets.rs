//! Secrets and the data keys that encrypt them.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// A secret, encrypted.
#[derive(Clone, Debug, FromRow)]
pub struct SecretRow {
    /// Its name.
    pub name: String,
    /// Counts up with each value.
    pub version: i32,
    /// Which data key.
    pub data_key: i32,
    /// Nonce and ciphertext.
    pub ciphertext: Vec<u8>,
    /// When the value was set.
    pub updated_at: DateTime<Utc>,
    /// By whom.
    pub updated_by: String,
}

/// The newest wrapped data key.
pub async fn newest_data_key(conn: &mut PgConnection) -> sqlx::Result<(i32, Vec<u8>)> {
    sqlx::query_as("SELECT version, wrapped FROM data_keys ORDER BY version DESC LIMIT 1")
        .fetch_one(conn)
        .await
}

/// A wrapped data key.
pub async fn data_key(conn: &mut PgConnection, version: i32) -> sqlx::Result<Vec<u8>> {
    sqlx::query_scalar("SELECT wrapped FROM data_keys WHERE version = $1").bind(version).fetch_one(conn).await
}

/// The version of a secret, locked; none when there is no such secret.
pub async fn lock_version(conn: &mut PgConnection, name: &str) -> sqlx::Result<Option<i32>> {
    // Locks the name also while there is no row: of two first values one is version 1, the other version 2.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '|secret|' || $1, 0))")
        .bind(name)
        .execute(&mut *conn)
        .await?;
    sqlx::query_scalar("SELECT version FROM secrets WHERE name = $1 FOR UPDATE")
        .bind(name)
        .fetch_optional(conn)
        .await
}

/// Writes a value.
pub async fn put(conn: &mut PgConnection, row: &SecretRow) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO secrets (name, version, data_key, ciphertext, updated_at, updated_by) VALUES ($1, $2, $3, $4, $5, $6) \
         ON CONFLICT (name) DO UPDATE SET version = excluded.version, data_key = excluded.data_key, \
         ciphertext = excluded.ciphertext, updated_at = excluded.updated_at, updated_by = excluded.updated_by",
    )
    .bind(&row.name)
    .bind(row.version)
    .bind(row.data_key)
    .bind(&row.ciphertext)
    .bind(row.updated_at)
    .bind(&row.updated_by)
    .execute(conn)
    .await?;
    Ok(())
}

/// Secrets after a name.
pub async fn list(conn: &mut PgConnection, after: &str, limit: i64) -> sqlx::Result<Vec<SecretRow>> {
    sqlx::query_as(
        "SELECT name, version, data_key, ciphertext, updated_at, updated_by FROM secrets \
         WHERE name > $1 ORDER BY name LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// Those of these secrets that there are.
pub async fn by_names(conn: &mut PgConnection, names: &[String]) -> sqlx::Result<Vec<SecretRow>> {
    sqlx::query_as(
        "SELECT name, version, data_key, ciphertext, updated_at, updated_by FROM secrets WHERE name = ANY($1)",
    )
    .bind(names)
    .fetch_all(conn)
    .await
}

/// Deletes one; whether it was there.
pub async fn delete(conn: &mut PgConnection, name: &str) -> sqlx::Result<bool> {
    Ok(sqlx::query("DELETE FROM secrets WHERE name = $1").bind(name).execute(conn).await?.rows_affected()
        == 1)
}

//! Secrets and the data keys that encrypt them.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow, PgConnection};

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

/// Earlier values that are kept of a secret.
const KEPT: i32 = 10;

const COLUMNS: &str = "name, version, data_key, ciphertext, updated_at, updated_by";

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

/// Writes a value; the one before is kept with the ten before it.
pub async fn put(conn: &mut PgConnection, row: &SecretRow) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO secret_versions (name, version, data_key, ciphertext, updated_at, updated_by) \
         SELECT name, version, data_key, ciphertext, updated_at, updated_by FROM secrets WHERE name = $1",
    )
    .bind(&row.name)
    .execute(&mut *conn)
    .await?;
    sqlx::query("DELETE FROM secret_versions WHERE name = $1 AND version < $2 - $3")
        .bind(&row.name)
        .bind(row.version)
        .bind(KEPT)
        .execute(&mut *conn)
        .await?;
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

/// How many secrets there are.
pub async fn count(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT count(*) FROM secrets").fetch_one(conn).await
}

/// What is kept of a secret, the newest first.
pub async fn versions(conn: &mut PgConnection, name: &str) -> sqlx::Result<Vec<SecretRow>> {
    sqlx::query_as(AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM secrets WHERE name = $1 UNION ALL SELECT {COLUMNS} FROM secret_versions WHERE name = $1 \
         ORDER BY version DESC"
    )))
    .bind(name)
    .fetch_all(conn)
    .await
}

/// Everything that is sealed, earlier values included.
pub async fn all_sealed(conn: &mut PgConnection) -> sqlx::Result<Vec<SecretRow>> {
    sqlx::query_as(AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM secrets UNION ALL SELECT {COLUMNS} FROM secret_versions ORDER BY name, version"
    )))
    .fetch_all(conn)
    .await
}

/// No data key is replaced until the transaction ends: what was read of one stays true.
pub async fn hold_data_keys(conn: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("LOCK TABLE secrets IN ROW EXCLUSIVE MODE").execute(conn).await?;
    Ok(())
}

/// Nobody sets, restores or deletes a secret until the transaction ends.
pub async fn lock_all(conn: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("LOCK TABLE secrets, secret_versions IN SHARE ROW EXCLUSIVE MODE").execute(conn).await?;
    Ok(())
}

/// Writes a value that was sealed anew, wherever it stands.
pub async fn reseal(conn: &mut PgConnection, row: &SecretRow) -> sqlx::Result<()> {
    for table in ["secrets", "secret_versions"] {
        sqlx::query(AssertSqlSafe(format!(
            "UPDATE {table} SET data_key = $3, ciphertext = $4 WHERE name = $1 AND version = $2"
        )))
        .bind(&row.name)
        .bind(row.version)
        .bind(row.data_key)
        .bind(&row.ciphertext)
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// Adds a data key.
pub async fn add_data_key(
    conn: &mut PgConnection,
    version: i32,
    wrapped: &[u8],
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO data_keys (version, wrapped, created_at) VALUES ($1, $2, $3)")
        .bind(version)
        .bind(wrapped)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets data keys that seal nothing any more.
pub async fn forget_data_keys(conn: &mut PgConnection, before: i32) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM data_keys WHERE version < $1").bind(before).execute(conn).await?;
    Ok(())
}

/// All data keys, kept from changing: (version, wrapped).
pub async fn lock_data_keys(conn: &mut PgConnection) -> sqlx::Result<Vec<(i32, Vec<u8>)>> {
    sqlx::query_as("SELECT version, wrapped FROM data_keys ORDER BY version FOR UPDATE").fetch_all(conn).await
}

/// Writes a data key that was wrapped anew.
pub async fn rewrap(conn: &mut PgConnection, version: i32, wrapped: &[u8]) -> sqlx::Result<()> {
    sqlx::query("UPDATE data_keys SET wrapped = $2 WHERE version = $1")
        .bind(version)
        .bind(wrapped)
        .execute(conn)
        .await?;
    Ok(())
}

/// Notes which master key wraps all of the bound organization's data keys.
pub async fn note_master(conn: &mut PgConnection, master: &str) -> sqlx::Result<()> {
    sqlx::query("SELECT control.data_keys_wrapped($1)").bind(master).execute(conn).await?;
    Ok(())
}

/// Notes that a master key is somebody's newest; answers which one is the newest of all.
pub async fn newest_master(conn: &mut PgConnection, id: &str) -> sqlx::Result<String> {
    sqlx::query("INSERT INTO master_keys (id) SELECT $1 WHERE NOT EXISTS (SELECT FROM master_keys WHERE id = $1) ON CONFLICT DO NOTHING")
        .bind(id)
        .execute(&mut *conn)
        .await?;
    sqlx::query_scalar("SELECT id FROM master_keys ORDER BY number DESC LIMIT 1").fetch_one(conn).await
}

/// Organizations whose data keys another master key wraps, in `control`.
pub async fn wrapped_before(conn: &mut PgConnection, newest: &str, limit: i64) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT k.org_id FROM data_keys k JOIN orgs o ON o.id = k.org_id AND o.state <> 'purged' \
         WHERE k.master <> $1 ORDER BY k.org_id LIMIT $2",
    )
    .bind(newest)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// How many organizations the newest master key serves, and how many another: in `control`.
pub async fn rotation(conn: &mut PgConnection, newest: &str) -> sqlx::Result<(i64, i64)> {
    sqlx::query_as(
        "SELECT count(*) FILTER (WHERE k.master = $1), count(*) FILTER (WHERE k.master <> $1) \
         FROM data_keys k JOIN orgs o ON o.id = k.org_id AND o.state <> 'purged'",
    )
    .bind(newest)
    .fetch_one(conn)
    .await
}

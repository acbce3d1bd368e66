//! Exports and their parts.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, FromRow, PgConnection};

/// An export.
#[derive(Clone, Debug, FromRow)]
pub struct ExportRow {
    /// `exp_…`
    pub id: String,
    /// `running`, `ready` or `failed`.
    pub state: String,
    /// Who asked.
    pub requested_by: String,
    /// When.
    pub created_at: DateTime<Utc>,
    /// When it was whole.
    pub finished_at: Option<DateTime<Utc>>,
    /// When it is deleted.
    pub expires_at: DateTime<Utc>,
    /// Which attempt works at it.
    pub attempt: i32,
    /// Its tables, once it is whole.
    pub tables: Json<Vec<TableRow>>,
}

/// A table of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRow {
    /// The service that keeps it.
    pub service: String,
    /// Its name.
    pub table: String,
    /// Rows.
    pub rows: u64,
    /// Of all its lines, hex.
    pub sha256: String,
}

/// A part, without its content.
#[derive(Clone, Debug, FromRow)]
pub struct PartRow {
    /// From 1.
    pub number: i32,
    /// The service of its table.
    pub service: String,
    /// Its table.
    pub table_name: String,
    /// Lines.
    pub rows: i64,
    /// Bytes.
    pub size: i64,
    /// Hex.
    pub sha256: String,
}

const COLUMNS: &str = "id, state, requested_by, created_at, finished_at, expires_at, attempt, tables";

fn select(rest: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("SELECT {COLUMNS} FROM exports {rest}"))
}

/// Adds an export that is to be made now.
pub async fn insert(conn: &mut PgConnection, export: &ExportRow) -> sqlx::Result<()> {
    sqlx::query(
        "WITH made AS (INSERT INTO exports (id, state, requested_by, created_at, expires_at) VALUES ($1, 'running', $2, $3, $4)) \
         SELECT control.export_at($1, $3)",
    )
    .bind(&export.id)
    .bind(&export.requested_by)
    .bind(export.created_at)
    .bind(export.expires_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// One export.
pub async fn get(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<ExportRow>> {
    sqlx::query_as(select("WHERE id = $1")).bind(id).fetch_optional(conn).await
}

/// One export, kept from changing until the transaction ends.
pub async fn lock(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<ExportRow>> {
    sqlx::query_as(select("WHERE id = $1 FOR UPDATE")).bind(id).fetch_optional(conn).await
}

/// All that are kept, the newest first.
pub async fn list(conn: &mut PgConnection) -> sqlx::Result<Vec<ExportRow>> {
    sqlx::query_as(select("ORDER BY created_at DESC, id DESC LIMIT 100")).fetch_all(conn).await
}

/// Its parts, by number.
pub async fn parts(conn: &mut PgConnection, id: &str) -> sqlx::Result<Vec<PartRow>> {
    sqlx::query_as(
        "SELECT number, service, table_name, rows, length(content)::bigint AS size, sha256 FROM export_parts \
         WHERE export_id = $1 ORDER BY number",
    )
    .bind(id)
    .fetch_all(conn)
    .await
}

/// The content of a part of a whole export.
pub async fn content(conn: &mut PgConnection, id: &str, number: i32) -> sqlx::Result<Option<Vec<u8>>> {
    sqlx::query_scalar(
        "SELECT p.content FROM export_parts p JOIN exports e ON e.id = p.export_id \
         WHERE p.export_id = $1 AND p.number = $2 AND e.state = 'ready'",
    )
    .bind(id)
    .bind(number)
    .fetch_optional(conn)
    .await
}

/// Adds a part.
pub async fn add_part(conn: &mut PgConnection, id: &str, part: &PartRow, content: &[u8]) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO export_parts (export_id, number, service, table_name, rows, sha256, content) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(id)
    .bind(part.number)
    .bind(&part.service)
    .bind(&part.table_name)
    .bind(part.rows)
    .bind(&part.sha256)
    .bind(content)
    .execute(conn)
    .await?;
    Ok(())
}

/// Begins an attempt: forgets what one that was killed had got to, and keeps it from going on.
pub async fn begin(conn: &mut PgConnection, id: &str, attempt: i32) -> sqlx::Result<()> {
    sqlx::query("UPDATE exports SET attempt = $2 WHERE id = $1")
        .bind(id)
        .bind(attempt)
        .execute(&mut *conn)
        .await?;
    sqlx::query("DELETE FROM export_parts WHERE export_id = $1").bind(id).execute(conn).await?;
    Ok(())
}

/// It is whole, or has failed; it is looked at again when it expires.
pub async fn end(
    conn: &mut PgConnection,
    id: &str,
    state: &str,
    tables: &[TableRow],
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "WITH ended AS (UPDATE exports SET state = $2, tables = $3, finished_at = $4 WHERE id = $1 RETURNING expires_at) \
         SELECT control.export_at($1, expires_at) FROM ended",
    )
    .bind(id)
    .bind(state)
    .bind(Json(tables))
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes one, with its parts.
pub async fn delete(conn: &mut PgConnection, id: &str) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM exports WHERE id = $1").bind(id).execute(&mut *conn).await?;
    sqlx::query("SELECT control.export_gone($1)").bind(id).execute(conn).await?;
    Ok(())
}

/// Forgets all exports of an organization, by the database's owner.
pub async fn forget_all(conn: &mut PgConnection, org: &str) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM exports").execute(&mut *conn).await?;
    sqlx::query("DELETE FROM control.export_pointers WHERE org_id = $1").bind(org).execute(conn).await?;
    Ok(())
}

/// Takes an export that is due, in `control`: (organization, export, how often it was taken before). It is due again at
/// `again`, should nobody end it.
pub async fn take_due(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    again: DateTime<Utc>,
) -> sqlx::Result<Option<(String, String, i32)>> {
    sqlx::query_as(
        "UPDATE export_pointers SET due_at = $2, attempts = attempts + 1 WHERE export_id IN ( \
            SELECT export_id FROM export_pointers WHERE due_at <= $1 ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED) \
         RETURNING org_id, export_id, attempts - 1",
    )
    .bind(now)
    .bind(again)
    .fetch_optional(conn)
    .await
}

//! Support grants, and what approved ones open, in `control`.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// A grant.
#[derive(Clone, Debug, FromRow)]
pub struct GrantRow {
    /// `grant_…`
    pub id: String,
    /// Who asked.
    pub operator: String,
    /// Why.
    pub reason: String,
    /// How long.
    pub minutes: i32,
    /// Another operator may approve it.
    pub break_glass: bool,
    /// `requested`, `approved`, `denied` or `revoked`; see [`crate::domain::support`] for what it is by now.
    pub state: String,
    /// Since when.
    pub requested_at: DateTime<Utc>,
    /// Who approved or denied it.
    pub decided_by: String,
    /// When.
    pub decided_at: Option<DateTime<Utc>>,
    /// Who revoked it.
    pub revoked_by: String,
    /// Of the request, or of its use.
    pub expires_at: DateTime<Utc>,
}

/// Adds a request.
pub async fn insert(conn: &mut PgConnection, row: &GrantRow) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO support_grants (id, operator, reason, minutes, break_glass, state, requested_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(&row.id)
    .bind(&row.operator)
    .bind(&row.reason)
    .bind(row.minutes)
    .bind(row.break_glass)
    .bind(&row.state)
    .bind(row.requested_at)
    .bind(row.expires_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether an operator's request still waits for its answer.
pub async fn waits(conn: &mut PgConnection, operator: &str, now: DateTime<Utc>) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM support_grants WHERE operator = $1 AND state = 'requested' AND expires_at > $2)",
    )
    .bind(operator)
    .bind(now)
    .fetch_one(conn)
    .await
}

/// Those before an id, the newest first; empty: from the newest.
pub async fn list(conn: &mut PgConnection, before: &str, limit: i64) -> sqlx::Result<Vec<GrantRow>> {
    sqlx::query_as(
        "SELECT id, operator, reason, minutes, break_glass, state, requested_at, decided_by, decided_at, revoked_by, expires_at \
         FROM support_grants WHERE $1 = '' OR id < $1 ORDER BY id DESC LIMIT $2",
    )
    .bind(before)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// One, locked.
pub async fn lock(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<GrantRow>> {
    sqlx::query_as(
        "SELECT id, operator, reason, minutes, break_glass, state, requested_at, decided_by, decided_at, revoked_by, expires_at \
         FROM support_grants WHERE id = $1 FOR UPDATE",
    )
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// Keeps a locked one as it is now.
async fn save(conn: &mut PgConnection, row: &GrantRow) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE support_grants SET state = $2, decided_by = $3, decided_at = $4, revoked_by = $5, expires_at = $6 WHERE id = $1",
    )
    .bind(&row.id)
    .bind(&row.state)
    .bind(&row.decided_by)
    .bind(row.decided_at)
    .bind(&row.revoked_by)
    .bind(row.expires_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Keeps one that was approved now, and opens what it opens.
pub async fn approve(conn: &mut PgConnection, row: &GrantRow) -> sqlx::Result<()> {
    save(conn, row).await?;
    sqlx::query("SELECT control.support_put($1, $2, $3)")
        .bind(&row.id)
        .bind(&row.operator)
        .bind(row.expires_at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets uses that have ended by themselves, in `control`.
pub async fn sweep(conn: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM support_grants WHERE expires_at < $1").bind(now).execute(conn).await?;
    Ok(())
}

/// Keeps one that was denied or revoked now, and closes what it opened.
pub async fn end(conn: &mut PgConnection, row: &GrantRow) -> sqlx::Result<()> {
    save(conn, row).await?;
    sqlx::query("SELECT control.support_end($1)").bind(&row.id).execute(conn).await?;
    Ok(())
}

/// What opens an organization to an operator, in `control`.
#[derive(Clone, Debug, FromRow)]
pub struct Opening {
    /// `grant_…`
    pub grant_id: String,
    /// Until when.
    pub expires_at: DateTime<Utc>,
    /// Of the organization.
    pub org_state: String,
}

/// Whether an organization is open to an operator now.
pub async fn opening(
    conn: &mut PgConnection,
    org: &str,
    operator: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Opening>> {
    sqlx::query_as(
        "SELECT g.grant_id, g.expires_at, o.state AS org_state FROM support_grants g JOIN orgs o ON o.id = g.org_id \
         WHERE g.org_id = $1 AND g.operator = $2 AND g.expires_at > $3 AND o.state IN ('active', 'suspended', 'deleting') \
         ORDER BY g.expires_at DESC LIMIT 1",
    )
    .bind(org)
    .bind(operator)
    .bind(now)
    .fetch_optional(conn)
    .await
}

/// Revokes what is open of an organization, by the database's owner.
pub async fn revoke_all(conn: &mut PgConnection, org: &str) -> sqlx::Result<()> {
    sqlx::query("UPDATE support_grants SET state = 'revoked' WHERE state = 'approved'")
        .execute(&mut *conn)
        .await?;
    sqlx::query("DELETE FROM control.support_grants WHERE org_id = $1").bind(org).execute(conn).await?;
    Ok(())
}

//! Domains, and the directory in `control` of those that are verified.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// A domain.
#[derive(Clone, Debug, FromRow)]
pub struct DomainRow {
    /// `dom_…`
    pub id: String,
    /// In ASCII.
    pub name: String,
    /// Of its challenge.
    pub token: String,
    /// `manual`, `suggested` or `automatic`.
    pub joining: String,
    /// What it gives: `viewer` or `member`.
    pub role: String,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// Since when it is verified.
    pub verified_at: Option<DateTime<Utc>>,
    /// Since when its record is not found.
    pub missed_at: Option<DateTime<Utc>>,
}

/// Adds one.
pub async fn insert(conn: &mut PgConnection, row: &DomainRow) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO domains (id, name, token, joining, role, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&row.id)
    .bind(&row.name)
    .bind(&row.token)
    .bind(&row.joining)
    .bind(&row.role)
    .bind(row.created_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// All of them.
pub async fn list(conn: &mut PgConnection) -> sqlx::Result<Vec<DomainRow>> {
    sqlx::query_as(
        "SELECT id, name, token, joining, role, created_at, verified_at, missed_at FROM domains ORDER BY id",
    )
    .fetch_all(conn)
    .await
}

/// How many there are.
pub async fn count(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT count(*) FROM domains").fetch_one(conn).await
}

/// One.
pub async fn get(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<DomainRow>> {
    sqlx::query_as(
        "SELECT id, name, token, joining, role, created_at, verified_at, missed_at FROM domains WHERE id = $1",
    )
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// One that was verified before then, by its name, locked.
pub async fn lock_verified(
    conn: &mut PgConnection,
    name: &str,
    before: DateTime<Utc>,
) -> sqlx::Result<Option<DomainRow>> {
    sqlx::query_as(
        "SELECT id, name, token, joining, role, created_at, verified_at, missed_at FROM domains \
         WHERE name = $1 AND verified_at < $2 FOR UPDATE",
    )
    .bind(name)
    .bind(before)
    .fetch_optional(conn)
    .await
}

/// One, locked.
pub async fn lock(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<DomainRow>> {
    sqlx::query_as(
        "SELECT id, name, token, joining, role, created_at, verified_at, missed_at FROM domains WHERE id = $1 FOR UPDATE",
    )
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// Keeps a locked one as it is now. A verified one also in the directory: false when another organization has it there.
pub async fn save(conn: &mut PgConnection, row: &DomainRow) -> sqlx::Result<bool> {
    sqlx::query("UPDATE domains SET joining = $2, role = $3, verified_at = $4, missed_at = $5 WHERE id = $1")
        .bind(&row.id)
        .bind(&row.joining)
        .bind(&row.role)
        .bind(row.verified_at)
        .bind(row.missed_at)
        .execute(&mut *conn)
        .await?;
    if row.verified_at.is_none() {
        return Ok(true);
    }
    sqlx::query_scalar("SELECT control.domain_put($1, $2, $3)")
        .bind(&row.name)
        .bind(&row.joining)
        .bind(&row.role)
        .fetch_one(conn)
        .await
}

/// Notes whether the record was there. False when that was known, or the domain is verified no more.
pub async fn note_record(
    conn: &mut PgConnection,
    row: &DomainRow,
    missed_at: Option<DateTime<Utc>>,
) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "UPDATE domains SET missed_at = $3 \
         WHERE id = $1 AND token = $2 AND verified_at IS NOT NULL AND (missed_at IS NULL) <> ($3 IS NULL)",
    )
    .bind(&row.id)
    .bind(&row.token)
    .bind(missed_at)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A locked one is to be verified anew, by another record, and free for others.
pub async fn lapse(conn: &mut PgConnection, row: &DomainRow, token: &str) -> sqlx::Result<()> {
    sqlx::query("UPDATE domains SET verified_at = NULL, missed_at = NULL, token = $2 WHERE id = $1")
        .bind(&row.id)
        .bind(token)
        .execute(&mut *conn)
        .await?;
    sqlx::query("SELECT control.domain_remove($1)").bind(&row.name).execute(conn).await?;
    Ok(())
}

/// Gives a locked one up.
pub async fn delete(conn: &mut PgConnection, row: &DomainRow) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM domains WHERE id = $1").bind(&row.id).execute(&mut *conn).await?;
    sqlx::query("SELECT control.domain_remove($1)").bind(&row.name).execute(conn).await?;
    Ok(())
}

/// Whose a verified domain is, and how people join by it.
#[derive(Clone, Debug, FromRow)]
pub struct Holder {
    /// `org_…`
    pub org_id: String,
    /// Its slug.
    pub slug: String,
    /// The domain.
    pub name: String,
    /// `manual`, `suggested` or `automatic`.
    pub joining: String,
    /// `viewer` or `member`.
    pub role: String,
}

/// Who holds a domain, if their life goes on: asked in `control`.
pub async fn holder(conn: &mut PgConnection, name: &str) -> sqlx::Result<Option<Holder>> {
    sqlx::query_as(
        "SELECT d.org_id, o.slug, d.name, d.joining, d.role FROM control.domains d JOIN control.orgs o ON o.id = d.org_id \
         WHERE d.name = $1 AND o.state = 'active'",
    )
    .bind(name)
    .fetch_optional(conn)
    .await
}

/// The organization that holds a domain, however its life goes: asked in `control`.
pub async fn org_of(conn: &mut PgConnection, name: &str) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("SELECT org_id FROM control.domains WHERE name = $1")
        .bind(name)
        .fetch_optional(conn)
        .await
}

/// The domain, if it still is so: asked of the holder itself.
pub async fn still_opens(conn: &mut PgConnection, holder: &Holder) -> sqlx::Result<Option<DomainRow>> {
    sqlx::query_as(
        "SELECT id, name, token, joining, role, created_at, verified_at, missed_at FROM domains \
         WHERE name = $1 AND joining = $2 AND role = $3 AND verified_at IS NOT NULL",
    )
    .bind(&holder.name)
    .bind(&holder.joining)
    .bind(&holder.role)
    .fetch_optional(conn)
    .await
}

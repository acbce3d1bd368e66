//! The directory of organizations' lives, in `control`.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// An organization.
#[derive(Clone, Debug, FromRow)]
pub struct OrgsRow {
    /// `org_…`
    pub id: String,
    /// Unique.
    pub slug: String,
    /// Name as created.
    pub name: String,
    /// The first owner.
    pub created_by: String,
    /// `provisioning` or `active`.
    pub state: String,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// The request that asked for it, when it had an `Idempotency-Key`.
    pub asked_with: Option<Vec<u8>>,
}

/// Takes a slug for a new organization; the one that has it already, when it is taken.
pub async fn reserve(conn: &mut PgConnection, org: &OrgsRow) -> sqlx::Result<OrgsRow> {
    let made = sqlx::query(
        "INSERT INTO orgs (id, slug, name, created_by, state, created_at, asked_with) \
         VALUES ($1, $2, $3, $4, 'provisioning', $5, $6) \
         ON CONFLICT (slug) DO NOTHING",
    )
    .bind(&org.id)
    .bind(&org.slug)
    .bind(&org.name)
    .bind(&org.created_by)
    .bind(org.created_at)
    .bind(&org.asked_with)
    .execute(&mut *conn)
    .await?;
    if made.rows_affected() == 1 {
        return Ok(org.clone());
    }
    sqlx::query_as(
        "SELECT id, slug, name, created_by, state, created_at, asked_with FROM orgs WHERE slug = $1",
    )
    .bind(&org.slug)
    .fetch_one(conn)
    .await
}

/// One organization.
pub async fn get(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<OrgsRow>> {
    sqlx::query_as("SELECT id, slug, name, created_by, state, created_at, asked_with FROM orgs WHERE id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// All schemas are there.
pub async fn activate(conn: &mut PgConnection, id: &str) -> sqlx::Result<()> {
    sqlx::query("UPDATE orgs SET state = 'active' WHERE id = $1").bind(id).execute(conn).await?;
    Ok(())
}

/// Left half-way: created before `before` and still not active.
pub async fn unfinished(conn: &mut PgConnection, before: DateTime<Utc>) -> sqlx::Result<Vec<OrgsRow>> {
    sqlx::query_as(
        "SELECT id, slug, name, created_by, state, created_at, asked_with FROM orgs \
         WHERE state = 'provisioning' AND created_at < $1 ORDER BY created_at LIMIT 100",
    )
    .bind(before)
    .fetch_all(conn)
    .await
}

/// A person's active organizations after an id, with their role.
pub async fn of_user(
    conn: &mut PgConnection,
    user: &str,
    after: &str,
    limit: i64,
) -> sqlx::Result<Vec<(String, String)>> {
    sqlx::query_as(
        "SELECT o.id, m.role FROM memberships m JOIN orgs o ON o.id = m.org_id \
         WHERE m.user_id = $1 AND o.state = 'active' AND o.id > $2 ORDER BY o.id LIMIT $3",
    )
    .bind(user)
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await
}

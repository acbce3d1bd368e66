//! Members, and their copy in `control` that finds a person's organizations.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// A member.
#[derive(Clone, Debug, FromRow)]
pub struct MemberRow {
    /// `user_…`
    pub user_id: String,
    /// E-mail address.
    pub email: String,
    /// Display name.
    pub name: String,
    /// Their role.
    pub role: String,
    /// Since when.
    pub joined_at: DateTime<Utc>,
}

/// Adds a member; whether it was new.
pub async fn insert(conn: &mut PgConnection, m: &MemberRow) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "INSERT INTO members (user_id, email, name, role, joined_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
    )
    .bind(&m.user_id)
    .bind(&m.email)
    .bind(&m.name)
    .bind(&m.role)
    .bind(m.joined_at)
    .execute(&mut *conn)
    .await?;
    let new = done.rows_affected() == 1;
    if new {
        put_copy(conn, &m.user_id, &m.role).await?;
    }
    Ok(new)
}

async fn put_copy(conn: &mut PgConnection, user: &str, role: &str) -> sqlx::Result<()> {
    sqlx::query("SELECT control.member_put($1, $2)").bind(user).bind(role).execute(conn).await?;
    Ok(())
}

/// One member, locked.
pub async fn lock(conn: &mut PgConnection, user: &str) -> sqlx::Result<Option<MemberRow>> {
    sqlx::query_as("SELECT user_id, email, name, role, joined_at FROM members WHERE user_id = $1 FOR UPDATE")
        .bind(user)
        .fetch_optional(conn)
        .await
}

/// All owners, locked: two who leave at the same time can't both believe that the other stays.
pub async fn lock_owners(conn: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar("SELECT user_id FROM members WHERE role = 'owner' ORDER BY user_id FOR UPDATE")
        .fetch_all(conn)
        .await
}

/// Members after an id.
pub async fn list(conn: &mut PgConnection, after: &str, limit: i64) -> sqlx::Result<Vec<MemberRow>> {
    sqlx::query_as(
        "SELECT user_id, email, name, role, joined_at FROM members WHERE user_id > $1 ORDER BY user_id LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// Gives a role.
pub async fn set_role(conn: &mut PgConnection, user: &str, role: &str) -> sqlx::Result<()> {
    sqlx::query("UPDATE members SET role = $2 WHERE user_id = $1")
        .bind(user)
        .bind(role)
        .execute(&mut *conn)
        .await?;
    put_copy(conn, user, role).await
}

/// Removes a member.
pub async fn delete(conn: &mut PgConnection, user: &str) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM members WHERE user_id = $1").bind(user).execute(&mut *conn).await?;
    sqlx::query("SELECT control.member_remove($1)").bind(user).execute(conn).await?;
    Ok(())
}

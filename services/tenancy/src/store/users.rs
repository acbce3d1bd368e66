//! People, in `control`.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// A person.
#[derive(Clone, Debug, FromRow)]
pub struct UserRow {
    /// `user_…`
    pub id: String,
    /// Lower case.
    pub email: String,
    /// Display name.
    pub name: String,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

/// Adds a person.
pub async fn insert(conn: &mut PgConnection, user: &UserRow) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO users (id, email, name, created_at) VALUES ($1, $2, $3, $4)")
        .bind(&user.id)
        .bind(&user.email)
        .bind(&user.name)
        .bind(user.created_at)
        .execute(conn)
        .await?;
    Ok(())
}

/// The person with that address; `wish` when there was none.
pub async fn find_or_insert(conn: &mut PgConnection, wish: &UserRow) -> sqlx::Result<UserRow> {
    // Nothing changes on conflict; the row is locked and so there until this transaction ends.
    sqlx::query_as(
        "INSERT INTO users AS u (id, email, name, created_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (email) DO UPDATE SET email = u.email RETURNING id, email, name, created_at",
    )
    .bind(&wish.id)
    .bind(&wish.email)
    .bind(&wish.name)
    .bind(wish.created_at)
    .fetch_one(conn)
    .await
}

/// One person.
pub async fn get(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<UserRow>> {
    sqlx::query_as("SELECT id, email, name, created_at FROM users WHERE id = $1 AND deleted_at IS NULL")
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// Keeps a person from changing until the transaction ends; false when there is none.
pub async fn lock(conn: &mut PgConnection, id: &str) -> sqlx::Result<bool> {
    let found = sqlx::query("SELECT FROM users WHERE id = $1 AND deleted_at IS NULL FOR UPDATE")
        .bind(id)
        .fetch_optional(conn)
        .await?;
    Ok(found.is_some())
}

/// Forgets who a locked person is: name, address, links, sessions and keys. Their id stays in what they did.
pub async fn forget(conn: &mut PgConnection, id: &str, email: &str, now: DateTime<Utc>) -> sqlx::Result<()> {
    for sql in ["DELETE FROM sessions WHERE user_id = $1", "DELETE FROM credentials WHERE user_id = $1"] {
        sqlx::query(sql).bind(id).execute(&mut *conn).await?;
    }
    sqlx::query("DELETE FROM sign_ins WHERE email = $1").bind(email).execute(&mut *conn).await?;
    sqlx::query(
        "UPDATE users SET email = id || '@deleted.invalid', name = 'Deleted', deleted_at = $2 WHERE id = $1",
    )
    .bind(id)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

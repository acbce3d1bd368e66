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
    sqlx::query_as("SELECT id, email, name, created_at FROM users WHERE id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await
}

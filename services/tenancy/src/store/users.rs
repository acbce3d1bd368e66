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

/// One person.
pub async fn get(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<UserRow>> {
    sqlx::query_as("SELECT id, email, name, created_at FROM users WHERE id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await
}

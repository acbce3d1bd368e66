//! Integrations.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

/// A connection to GitHub.
#[derive(Clone, Debug, FromRow)]
pub struct IntegrationRow {
    /// `intg_…`
    pub id: String,
    /// `github`
    pub kind: String,
    /// `active`, `suspended` or `deleted`.
    pub state: String,
    /// GitHub's number.
    pub installation_id: i64,
    /// The account.
    pub account: String,
    /// GitHub's number of a repository → `owner/name`.
    pub repositories: Json<BTreeMap<String, String>>,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, kind, state, installation_id, account, repositories, created_at FROM integrations ",
            "WHERE state <> 'deleted' ",
            $rest
        )
    };
}

/// Adds one and binds its installation; a unique violation when the installation is bound already.
pub async fn insert(conn: &mut PgConnection, i: &IntegrationRow) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO integrations (id, kind, state, installation_id, account, repositories, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&i.id)
    .bind(&i.kind)
    .bind(&i.state)
    .bind(i.installation_id)
    .bind(&i.account)
    .bind(&i.repositories)
    .bind(i.created_at)
    .execute(&mut *conn)
    .await?;
    sqlx::query("SELECT control.github_bind($1, $2, $3)")
        .bind(i.installation_id)
        .bind(&i.id)
        .bind(i.created_at)
        .execute(conn)
        .await?;
    Ok(())
}

/// After an id.
pub async fn list(conn: &mut PgConnection, after: &str, limit: i64) -> sqlx::Result<Vec<IntegrationRow>> {
    sqlx::query_as(select!("AND id > $1 ORDER BY id LIMIT $2")).bind(after).bind(limit).fetch_all(conn).await
}

/// One, locked.
pub async fn lock(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<IntegrationRow>> {
    sqlx::query_as(select!("AND id = $1 FOR UPDATE")).bind(id).fetch_optional(conn).await
}

/// The one of an installation.
pub async fn by_installation(
    conn: &mut PgConnection,
    installation: i64,
) -> sqlx::Result<Option<IntegrationRow>> {
    sqlx::query_as(select!("AND installation_id = $1")).bind(installation).fetch_optional(conn).await
}

/// Writes a locked one back.
pub async fn save(conn: &mut PgConnection, i: &IntegrationRow) -> sqlx::Result<()> {
    sqlx::query("UPDATE integrations SET state = $2, repositories = $3 WHERE id = $1")
        .bind(&i.id)
        .bind(&i.state)
        .bind(&i.repositories)
        .execute(&mut *conn)
        .await?;
    if i.state == "deleted" {
        sqlx::query("SELECT control.github_unbind($1)").bind(&i.id).execute(conn).await?;
    } else {
        sqlx::query("SELECT control.github_suspend($1, $2)")
            .bind(&i.id)
            .bind(i.state == "suspended")
            .execute(conn)
            .await?;
    }
    Ok(())
}

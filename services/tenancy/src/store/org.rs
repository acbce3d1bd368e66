//! The tenant's own row: name, settings, version.

use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

use crate::domain::settings::Settings;

/// The one row.
#[derive(Clone, Debug, FromRow)]
pub struct OrgRow {
    /// Display name.
    pub name: String,
    /// Settings.
    pub settings: Json<Settings>,
    /// Counts up with each change.
    pub version: i64,
}

/// Makes the row; whether it was new.
pub async fn insert(conn: &mut PgConnection, name: &str) -> sqlx::Result<bool> {
    let done =
        sqlx::query("INSERT INTO org (name, settings, version) VALUES ($1, $2, 1) ON CONFLICT DO NOTHING")
            .bind(name)
            .bind(Json(Settings::default()))
            .execute(conn)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Reads it.
pub async fn get(conn: &mut PgConnection) -> sqlx::Result<OrgRow> {
    sqlx::query_as("SELECT name, settings, version FROM org").fetch_one(conn).await
}

/// Reads it and keeps others from changing it.
pub async fn lock(conn: &mut PgConnection) -> sqlx::Result<OrgRow> {
    sqlx::query_as("SELECT name, settings, version FROM org FOR UPDATE").fetch_one(conn).await
}

/// Writes a locked row back.
pub async fn save(conn: &mut PgConnection, row: &OrgRow) -> sqlx::Result<()> {
    sqlx::query("UPDATE org SET name = $1, settings = $2, version = $3")
        .bind(&row.name)
        .bind(&row.settings)
        .bind(row.version)
        .execute(conn)
        .await?;
    Ok(())
}

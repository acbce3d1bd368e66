//! The tenant's own row: name, settings, version.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

use crate::domain::settings::Settings;
use crate::store::members::MemberRow;

/// The one row.
#[derive(Clone, Debug, FromRow)]
pub struct OrgRow {
    /// Display name.
    pub name: String,
    /// Settings.
    pub settings: Json<Settings>,
    /// The owners' own notes.
    pub metadata: Json<BTreeMap<String, String>>,
    /// Its id in a system of the owners'.
    pub external_id: String,
    /// Counts up with each change.
    pub version: i64,
}

/// Whether PostgreSQL, which has the IANA database, knows a time zone of that name: none of the files beside it, which say what
/// the database's own machine is set to.
pub async fn is_timezone(conn: &mut PgConnection, name: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT $1 = 'UTC' OR EXISTS (SELECT FROM pg_catalog.pg_timezone_names WHERE name = $1 \
         AND name NOT IN ('localtime', 'posixrules', 'Factory') AND name !~ '^(posix|right)/')",
    )
    .bind(name)
    .fetch_one(conn)
    .await
}

/// What an organization starts with.
#[derive(Clone, Debug)]
pub struct Founding<'a> {
    /// Display name.
    pub name: &'a str,
    /// Its id in a system of the owner's; empty: none.
    pub external_id: &'a str,
    /// The first member.
    pub owner: &'a MemberRow,
    /// The first data key, wrapped.
    pub data_key: &'a [u8],
    /// By which master key.
    pub master: &'a str,
}

/// Makes the row, the first owner and the first data key; whether they were new. One statement: creating an organization
/// waits for each round trip, and for the first look at each table of its schema.
pub async fn found(conn: &mut PgConnection, f: &Founding<'_>) -> sqlx::Result<bool> {
    let made = sqlx::query(
        "WITH made AS (INSERT INTO org (name, settings, external_id, version) VALUES ($1, $2, $10, 1) ON CONFLICT DO NOTHING RETURNING 1), \
         owner AS (INSERT INTO members (user_id, email, name, role, joined_at) SELECT $3, $4, $5, $6, $7 FROM made \
                   RETURNING user_id, role), \
         data_key AS (INSERT INTO data_keys (version, wrapped, created_at) SELECT 1, $8, $7 FROM made) \
         SELECT control.member_put(user_id, role), control.data_keys_wrapped($9) FROM owner",
    )
    .bind(f.name)
    .bind(Json(Settings::default()))
    .bind(&f.owner.user_id)
    .bind(&f.owner.email)
    .bind(&f.owner.name)
    .bind(&f.owner.role)
    .bind(f.owner.joined_at)
    .bind(f.data_key)
    .bind(f.master)
    .bind(f.external_id)
    .execute(conn)
    .await?;
    Ok(made.rows_affected() == 1)
}

/// Reads it.
pub async fn get(conn: &mut PgConnection) -> sqlx::Result<OrgRow> {
    sqlx::query_as("SELECT name, settings, metadata, external_id, version FROM org").fetch_one(conn).await
}

/// Counts one more mail of an invitation, of the locked organization. False when so many were written since `day_ago` that there
/// are no more for now.
pub async fn count_mail(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    day_ago: DateTime<Utc>,
    most: i64,
) -> sqlx::Result<bool> {
    let counted = sqlx::query(
        "UPDATE org SET mails = CASE WHEN mails_since > $2 THEN mails + 1 ELSE 1 END, \
         mails_since = CASE WHEN mails_since > $2 THEN mails_since ELSE $1 END \
         WHERE (mails_since > $2) IS NOT TRUE OR mails < $3",
    )
    .bind(now)
    .bind(day_ago)
    .bind(most)
    .execute(conn)
    .await?;
    Ok(counted.rows_affected() == 1)
}

/// Reads it and keeps others from changing it.
pub async fn lock(conn: &mut PgConnection) -> sqlx::Result<OrgRow> {
    sqlx::query_as("SELECT name, settings, metadata, external_id, version FROM org FOR UPDATE")
        .fetch_one(conn)
        .await
}

/// Writes a locked row back.
pub async fn save(conn: &mut PgConnection, row: &OrgRow) -> sqlx::Result<()> {
    sqlx::query("UPDATE org SET name = $1, settings = $2, metadata = $3, external_id = $4, version = $5")
        .bind(&row.name)
        .bind(&row.settings)
        .bind(&row.metadata)
        .bind(&row.external_id)
        .bind(row.version)
        .execute(conn)
        .await?;
    Ok(())
}

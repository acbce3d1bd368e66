//! Work items.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

/// A work item.
#[derive(Clone, Debug, FromRow)]
pub struct WorkItemRow {
    /// `work_…`
    pub id: String,
    /// `github` or `api`.
    pub source: String,
    /// What happened.
    pub event: String,
    /// Unique; none: not deduplicated.
    pub dedupe_key: Option<String>,
    /// What belongs together.
    pub session_key: String,
    /// One line.
    pub title: String,
    /// The text.
    pub body: String,
    /// Who caused it.
    pub sender: String,
    /// Where to look at it.
    pub url: String,
    /// Where the reply goes.
    pub reply_to: Option<Json<serde_json::Value>>,
    /// When it arrived.
    pub created_at: DateTime<Utc>,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, source, event, dedupe_key, session_key, title, body, sender, url, reply_to, created_at ",
            "FROM work_items ",
            $rest
        )
    };
}

/// Adds one; whether its key was new.
pub async fn insert(conn: &mut PgConnection, w: &WorkItemRow) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "INSERT INTO work_items (id, source, event, dedupe_key, session_key, title, body, sender, url, reply_to, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (dedupe_key) DO NOTHING",
    )
    .bind(&w.id)
    .bind(&w.source)
    .bind(&w.event)
    .bind(&w.dedupe_key)
    .bind(&w.session_key)
    .bind(&w.title)
    .bind(&w.body)
    .bind(&w.sender)
    .bind(&w.url)
    .bind(&w.reply_to)
    .bind(w.created_at)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// One by id.
pub async fn get(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<WorkItemRow>> {
    sqlx::query_as(select!("WHERE id = $1")).bind(id).fetch_optional(conn).await
}

/// One by its key.
pub async fn by_key(conn: &mut PgConnection, key: &str) -> sqlx::Result<Option<WorkItemRow>> {
    sqlx::query_as(select!("WHERE dedupe_key = $1")).bind(key).fetch_optional(conn).await
}

/// Several by id.
pub async fn by_ids(conn: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<WorkItemRow>> {
    sqlx::query_as(select!("WHERE id = ANY($1)")).bind(ids).fetch_all(conn).await
}

/// Before an id (none: from the newest), newest first.
pub async fn list(
    conn: &mut PgConnection,
    session: &str,
    before: &str,
    limit: i64,
) -> sqlx::Result<Vec<WorkItemRow>> {
    sqlx::query_as(select!(
        "WHERE ($1 = '' OR session_key = $1) AND ($2 = '' OR id < $2) ORDER BY id DESC LIMIT $3"
    ))
    .bind(session)
    .bind(before)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// The jobs of work items: (work item, job).
pub async fn jobs_of(conn: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<(String, String)>> {
    sqlx::query_as("SELECT work_item_id, id FROM jobs WHERE work_item_id = ANY($1) ORDER BY id")
        .bind(ids)
        .fetch_all(conn)
        .await
}

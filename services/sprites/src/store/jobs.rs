//! Jobs as people see them. Moving them through the queue is `queue.rs`.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// A job.
#[derive(Clone, Debug, FromRow)]
pub struct JobRow {
    /// `job_…`
    pub id: String,
    /// Its agent.
    pub agent_id: String,
    /// Its work item.
    pub work_item_id: String,
    /// Where it is.
    pub state: String,
    /// Why.
    pub reason: String,
    /// Whether billing holds a unit.
    pub reserved: bool,
    /// Begun.
    pub attempts: i32,
    /// Allowed.
    pub max_attempts: i32,
    /// The newest lease.
    pub lease_epoch: i64,
    /// Not before then.
    pub run_at: DateTime<Utc>,
    /// The request's `traceparent`.
    pub trace: String,
    /// The request.
    pub request_id: String,
    /// Once it ended by itself.
    pub exit_code: Option<i32>,
    /// The reply.
    pub output: String,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// Last attempt.
    pub started_at: Option<DateTime<Utc>>,
    /// Its end.
    pub finished_at: Option<DateTime<Utc>>,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, agent_id, work_item_id, state, reason, reserved, attempts, max_attempts, lease_epoch, run_at, ",
            "trace, request_id, exit_code, output, created_at, started_at, finished_at FROM jobs ",
            $rest
        )
    };
}

/// One job.
pub async fn get(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<JobRow>> {
    sqlx::query_as(select!("WHERE id = $1")).bind(id).fetch_optional(conn).await
}

/// One job, locked.
pub async fn lock(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<JobRow>> {
    sqlx::query_as(select!("WHERE id = $1 FOR UPDATE")).bind(id).fetch_optional(conn).await
}

/// Which jobs; empty texts do not filter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this agent.
    pub agent_id: String,
    /// In this state.
    pub state: String,
    /// Of this work item.
    pub work_item_id: String,
}

/// Before an id (none: from the newest), newest first.
pub async fn list(
    conn: &mut PgConnection,
    f: &Filter,
    before: &str,
    limit: i64,
) -> sqlx::Result<Vec<JobRow>> {
    sqlx::query_as(select!(
        "WHERE ($1 = '' OR agent_id = $1) AND ($2 = '' OR state = $2) AND ($3 = '' OR work_item_id = $3) \
         AND ($4 = '' OR id < $4) ORDER BY id DESC LIMIT $5"
    ))
    .bind(&f.agent_id)
    .bind(&f.state)
    .bind(&f.work_item_id)
    .bind(before)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// The jobs of an agent that have not ended, locked.
pub async fn lock_open_of_agent(conn: &mut PgConnection, agent: &str) -> sqlx::Result<Vec<JobRow>> {
    sqlx::query_as(select!(
        "WHERE agent_id = $1 AND state IN ('queued', 'blocked', 'running') ORDER BY id FOR UPDATE"
    ))
    .bind(agent)
    .fetch_all(conn)
    .await
}

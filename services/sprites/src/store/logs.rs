//! Output of jobs.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// One line.
#[derive(Clone, Debug, FromRow)]
pub struct LogRow {
    /// From 1.
    pub sequence: i64,
    /// From 1.
    pub attempt: i32,
    /// `stdout`, `stderr` or `system`.
    pub stream: String,
    /// The text.
    pub text: String,
    /// When it arrived.
    pub at: DateTime<Utc>,
}

/// Where a running job's output stands: (attempt, lines in all, bytes in all), locked; none when the lease is not this.
pub async fn lock(
    conn: &mut PgConnection,
    job: &str,
    agent: &str,
    epoch: i64,
) -> sqlx::Result<Option<(i32, i64, i64)>> {
    sqlx::query_as(
        "SELECT attempts, log_lines, log_bytes FROM jobs WHERE id = $1 AND lease_epoch = $2 AND agent_id = $3 \
         AND state = 'running' FOR UPDATE",
    )
    .bind(job)
    .bind(epoch)
    .bind(agent)
    .fetch_optional(conn)
    .await
}

/// The last line that this lease wrote, by the runner's count.
pub async fn last_line(conn: &mut PgConnection, job: &str, epoch: i64) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT coalesce(max(line), 0) FROM job_logs WHERE job_id = $1 AND epoch = $2")
        .bind(job)
        .bind(epoch)
        .fetch_one(conn)
        .await
}

/// Where new lines go.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// The attempt.
    pub attempt: i32,
    /// Its lease.
    pub epoch: i64,
    /// The first line by the runner's count.
    pub line: i64,
    /// Lines of the job so far.
    pub lines: i64,
}

/// Appends lines (stream, text) and counts them.
pub async fn append(
    conn: &mut PgConnection,
    job: &str,
    at: Position,
    lines: &[(String, String)],
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    let streams: Vec<&str> = lines.iter().map(|l| l.0.as_str()).collect();
    let texts: Vec<&str> = lines.iter().map(|l| l.1.as_str()).collect();
    // An empty line takes room too.
    let bytes: usize = texts.iter().map(|t| t.len() + 1).sum();
    sqlx::query(
        "INSERT INTO job_logs (job_id, sequence, attempt, epoch, line, stream, text, at) \
         SELECT $1, $2 + u.n, $3, $4, $5 + u.n - 1, u.stream, u.text, $6 \
         FROM unnest($7::text[], $8::text[]) WITH ORDINALITY AS u (stream, text, n)",
    )
    .bind(job)
    .bind(at.lines)
    .bind(at.attempt)
    .bind(at.epoch)
    .bind(at.line)
    .bind(now)
    .bind(&streams)
    .bind(&texts)
    .execute(&mut *conn)
    .await?;
    sqlx::query("UPDATE jobs SET log_lines = log_lines + $2, log_bytes = log_bytes + $3 WHERE id = $1")
        .bind(job)
        .bind(i64::try_from(lines.len()).unwrap_or(0))
        .bind(i64::try_from(bytes).unwrap_or(0))
        .execute(conn)
        .await?;
    Ok(())
}

/// Lines after a position.
pub async fn list(conn: &mut PgConnection, job: &str, after: i64, limit: i64) -> sqlx::Result<Vec<LogRow>> {
    sqlx::query_as(
        "SELECT sequence, attempt, stream, text, at FROM job_logs WHERE job_id = $1 AND sequence > $2 \
         ORDER BY sequence LIMIT $3",
    )
    .bind(job)
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await
}

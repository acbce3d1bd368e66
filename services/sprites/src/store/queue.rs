//! Moving jobs: every function takes many at once and writes the jobs and their pointers in `control` together.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// A job to enqueue.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// `job_…`
    pub id: String,
    /// Its agent.
    pub agent_id: String,
    /// Its work item.
    pub work_item_id: String,
}

/// Adds jobs as `queued`.
pub async fn enqueue(
    conn: &mut PgConnection,
    jobs: &[NewJob],
    max_attempts: i32,
    trace: &str,
    request_id: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    let ids: Vec<&str> = jobs.iter().map(|j| j.id.as_str()).collect();
    let agents: Vec<&str> = jobs.iter().map(|j| j.agent_id.as_str()).collect();
    let items: Vec<&str> = jobs.iter().map(|j| j.work_item_id.as_str()).collect();
    sqlx::query(
        "INSERT INTO jobs (id, agent_id, work_item_id, state, max_attempts, run_at, trace, request_id, created_at) \
         SELECT u.id, u.agent, u.item, 'queued', $4, $5, $6, $7, $5 \
         FROM unnest($1::text[], $2::text[], $3::text[]) AS u (id, agent, item)",
    )
    .bind(&ids)
    .bind(&agents)
    .bind(&items)
    .bind(max_attempts)
    .bind(now)
    .bind(trace)
    .bind(request_id)
    .execute(&mut *conn)
    .await?;
    point(conn, &ids, &agents, "queued", &vec![now; ids.len()]).await
}

async fn point(
    conn: &mut PgConnection,
    ids: &[&str],
    agents: &[&str],
    kind: &str,
    due: &[DateTime<Utc>],
) -> sqlx::Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query("SELECT control.jobs_point($1, $2, $3, $4)")
        .bind(ids)
        .bind(agents)
        .bind(kind)
        .bind(due)
        .execute(conn)
        .await?;
    Ok(())
}

/// Jobs at their end have no pointer.
pub async fn unpoint(conn: &mut PgConnection, ids: &[String]) -> sqlx::Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query("SELECT control.jobs_unpoint($1)").bind(ids).execute(conn).await?;
    Ok(())
}

/// Those of these jobs that have ended.
pub async fn ended(conn: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT id FROM jobs WHERE id = ANY($1) AND state IN ('completed', 'failed', 'cancelled', 'dead')",
    )
    .bind(ids)
    .fetch_all(conn)
    .await
}

/// Removes the pointers of those of these jobs that have ended, so that no pointer is looked at for ever.
pub async fn unpoint_ended(conn: &mut PgConnection, ids: &[String]) -> sqlx::Result<()> {
    let ended = ended(conn, ids).await?;
    unpoint(conn, &ended).await
}

/// A job that was moved.
#[derive(Clone, Debug, FromRow)]
pub struct Moved {
    /// `job_…`
    pub id: String,
    /// Its agent.
    pub agent_id: String,
    /// Not before then.
    pub run_at: DateTime<Utc>,
}

async fn point_moved(
    conn: &mut PgConnection,
    moved: &[Moved],
    kind: &str,
    due: Option<DateTime<Utc>>,
) -> sqlx::Result<()> {
    let ids: Vec<&str> = moved.iter().map(|m| m.id.as_str()).collect();
    let agents: Vec<&str> = moved.iter().map(|m| m.agent_id.as_str()).collect();
    let dues: Vec<DateTime<Utc>> = moved.iter().map(|m| due.unwrap_or(m.run_at)).collect();
    point(conn, &ids, &agents, kind, &dues).await
}

/// Billing allowed these: they can be claimed.
pub async fn allow(conn: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<Moved>> {
    let moved: Vec<Moved> = sqlx::query_as(
        "UPDATE jobs SET reserved = true WHERE id = ANY($1) AND state = 'queued' RETURNING id, agent_id, run_at",
    )
    .bind(ids)
    .fetch_all(&mut *conn)
    .await?;
    point_moved(conn, &moved, "ready", None).await?;
    Ok(moved)
}

/// Billing refused these: they wait, at the latest until the quota begins anew.
pub async fn block(
    conn: &mut PgConnection,
    ids: &[String],
    until: DateTime<Utc>,
) -> sqlx::Result<Vec<Moved>> {
    let moved: Vec<Moved> = sqlx::query_as(
        "UPDATE jobs SET state = 'blocked', reason = 'quota_exceeded', reserved = false \
         WHERE id = ANY($1) AND state = 'queued' AND NOT reserved RETURNING id, agent_id, run_at",
    )
    .bind(ids)
    .fetch_all(&mut *conn)
    .await?;
    point_moved(conn, &moved, "blocked", Some(until)).await?;
    Ok(moved)
}

/// All blocked ones may ask billing again.
pub async fn unblock(conn: &mut PgConnection) -> sqlx::Result<usize> {
    let moved: Vec<Moved> = sqlx::query_as(
        "UPDATE jobs SET state = 'queued', reason = '' WHERE state = 'blocked' RETURNING id, agent_id, run_at",
    )
    .fetch_all(&mut *conn)
    .await?;
    point_moved(conn, &moved, "queued", None).await?;
    Ok(moved.len())
}

/// An ended job begins anew.
pub async fn requeue(conn: &mut PgConnection, id: &str, agent: &str, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE jobs SET state = 'queued', reason = '', attempts = 0, reserved = false, exit_code = NULL, output = '', \
         run_at = $2, finished_at = NULL WHERE id = $1",
    )
    .bind(id)
    .bind(now)
    .execute(&mut *conn)
    .await?;
    point(conn, &[id], &[agent], "queued", &[now]).await
}

/// A claimed job.
#[derive(Clone, Debug, FromRow)]
pub struct Claimed {
    /// `job_…`
    pub id: String,
    /// Its agent.
    pub agent_id: String,
    /// Its work item.
    pub work_item_id: String,
    /// The lease.
    pub lease_epoch: i64,
    /// From 1.
    pub attempts: i32,
    /// The request's `traceparent`.
    pub trace: String,
}

/// Leases an agent's next jobs, oldest first, never more than `slots` at a time in all.
pub async fn claim(
    conn: &mut PgConnection,
    agent: &str,
    most: i64,
    slots: i64,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> sqlx::Result<Vec<Claimed>> {
    let claimed: Vec<Claimed> = sqlx::query_as(
        "UPDATE jobs SET state = 'running', reason = '', attempts = attempts + 1, lease_epoch = lease_epoch + 1, \
            leased_until = $5, started_at = $4 \
         WHERE id IN (SELECT id FROM jobs WHERE agent_id = $1 AND state = 'queued' AND reserved AND run_at <= $4 \
            ORDER BY run_at, id \
            LIMIT least($2, greatest(0, $3 - (SELECT count(*) FROM jobs WHERE agent_id = $1 AND state = 'running'))) \
            FOR UPDATE SKIP LOCKED) \
         RETURNING id, agent_id, work_item_id, lease_epoch, attempts, trace",
    )
    .bind(agent)
    .bind(most)
    .bind(slots)
    .bind(now)
    .bind(until)
    .fetch_all(&mut *conn)
    .await?;
    let ids: Vec<&str> = claimed.iter().map(|c| c.id.as_str()).collect();
    let agents: Vec<&str> = claimed.iter().map(|c| c.agent_id.as_str()).collect();
    point(conn, &ids, &agents, "leased", &vec![until; ids.len()]).await?;
    Ok(claimed)
}

/// Keeps a lease alive. None: it is not this epoch's any more.
pub async fn extend(
    conn: &mut PgConnection,
    id: &str,
    agent: &str,
    epoch: i64,
    until: DateTime<Utc>,
) -> sqlx::Result<Option<Moved>> {
    let moved: Option<Moved> = sqlx::query_as(
        "UPDATE jobs SET leased_until = $3 WHERE id = $1 AND lease_epoch = $2 AND agent_id = $4 AND state = 'running' \
         RETURNING id, agent_id, run_at",
    )
    .bind(id)
    .bind(epoch)
    .bind(until)
    .bind(agent)
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(m) = &moved {
        point(conn, &[&m.id], &[&m.agent_id], "leased", &[until]).await?;
    }
    Ok(moved)
}

/// How jobs end, or go on.
#[derive(Clone, Debug)]
pub struct Ending {
    /// `job_…`
    pub id: String,
    /// Its agent.
    pub agent_id: String,
    /// The new state.
    pub state: String,
    /// Why.
    pub reason: String,
    /// Whether billing still holds a unit.
    pub reserved: bool,
    /// The command's exit code.
    pub exit_code: Option<i32>,
    /// The reply.
    pub output: String,
    /// When to try again; none: it ended.
    pub run_at: Option<DateTime<Utc>>,
}

/// Writes endings. The jobs must be locked, and the caller must have checked their epoch.
pub async fn finish(conn: &mut PgConnection, endings: &[Ending], now: DateTime<Utc>) -> sqlx::Result<()> {
    if endings.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = endings.iter().map(|e| e.id.as_str()).collect();
    let states: Vec<&str> = endings.iter().map(|e| e.state.as_str()).collect();
    let reasons: Vec<&str> = endings.iter().map(|e| e.reason.as_str()).collect();
    let reserved: Vec<bool> = endings.iter().map(|e| e.reserved).collect();
    let codes: Vec<Option<i32>> = endings.iter().map(|e| e.exit_code).collect();
    let outputs: Vec<&str> = endings.iter().map(|e| e.output.as_str()).collect();
    let run_at: Vec<Option<DateTime<Utc>>> = endings.iter().map(|e| e.run_at).collect();
    sqlx::query(
        "UPDATE jobs j SET state = u.state, reason = u.reason, reserved = u.reserved, exit_code = u.code, output = u.output, \
            run_at = coalesce(u.run_at, j.run_at), leased_until = NULL, \
            finished_at = CASE WHEN u.run_at IS NULL THEN $8 END \
         FROM unnest($1::text[], $2::text[], $3::text[], $4::bool[], $5::int[], $6::text[], $7::timestamptz[]) \
            AS u (id, state, reason, reserved, code, output, run_at) WHERE j.id = u.id",
    )
    .bind(&ids)
    .bind(&states)
    .bind(&reasons)
    .bind(&reserved)
    .bind(&codes)
    .bind(&outputs)
    .bind(&run_at)
    .bind(now)
    .execute(&mut *conn)
    .await?;
    let ended: Vec<String> = endings.iter().filter(|e| e.run_at.is_none()).map(|e| e.id.clone()).collect();
    unpoint(conn, &ended).await?;
    let again: Vec<Moved> = endings
        .iter()
        .filter_map(|e| Some(Moved { id: e.id.clone(), agent_id: e.agent_id.clone(), run_at: e.run_at? }))
        .collect();
    point_moved(conn, &again, "queued", None).await
}

/// Running jobs with that id and epoch, locked.
pub async fn lock_running(
    conn: &mut PgConnection,
    ids: &[String],
    epochs: &[i64],
) -> sqlx::Result<Vec<(String, String, i32, i32)>> {
    sqlx::query_as(
        "SELECT j.id, j.agent_id, j.attempts, j.max_attempts FROM jobs j \
         JOIN unnest($1::text[], $2::bigint[]) AS u (id, epoch) ON u.id = j.id AND u.epoch = j.lease_epoch \
         WHERE j.state = 'running' ORDER BY j.id FOR UPDATE OF j",
    )
    .bind(ids)
    .bind(epochs)
    .fetch_all(conn)
    .await
}

/// An agent's running jobs, locked: (id, agent, attempts, allowed). Their attempt does not count: it is taken from them.
pub async fn lock_interrupted(
    conn: &mut PgConnection,
    agent: &str,
) -> sqlx::Result<Vec<(String, String, i32, i32)>> {
    sqlx::query_as(
        "UPDATE jobs SET attempts = attempts - 1 WHERE agent_id = $1 AND state = 'running' \
         RETURNING id, agent_id, attempts, max_attempts",
    )
    .bind(agent)
    .fetch_all(conn)
    .await
}

/// Running jobs whose lease ended, locked: (id, agent, attempts, allowed).
pub async fn lock_expired(
    conn: &mut PgConnection,
    ids: &[String],
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<(String, String, i32, i32)>> {
    sqlx::query_as(
        "SELECT id, agent_id, attempts, max_attempts FROM jobs \
         WHERE id = ANY($1) AND state = 'running' AND leased_until <= $2 ORDER BY id FOR UPDATE",
    )
    .bind(ids)
    .bind(now)
    .fetch_all(conn)
    .await
}

/// Ends the leases of an agent's running jobs now: its Sprite is gone.
pub async fn expire_agent(conn: &mut PgConnection, agent: &str, now: DateTime<Utc>) -> sqlx::Result<usize> {
    let moved: Vec<Moved> = sqlx::query_as(
        "UPDATE jobs SET leased_until = $2 WHERE agent_id = $1 AND state = 'running' RETURNING id, agent_id, run_at",
    )
    .bind(agent)
    .bind(now)
    .fetch_all(&mut *conn)
    .await?;
    point_moved(conn, &moved, "leased", Some(now)).await?;
    Ok(moved.len())
}

/// A pointer in `control`.
#[derive(Clone, Debug, FromRow)]
pub struct Pointer {
    /// `job_…`
    pub job_id: String,
    /// Whose.
    pub tenant_number: i64,
}

/// Due pointers of one kind, in `control`, of organizations whose work goes on (leases end in the others, too): at most `each` of every tenant, so that one with many holds nobody back.
pub async fn due(
    conn: &mut PgConnection,
    kind: &str,
    now: DateTime<Utc>,
    each: i64,
    most: i64,
) -> sqlx::Result<Vec<Pointer>> {
    sqlx::query_as(
        "SELECT p.job_id, t.tenant_number FROM \
            (SELECT DISTINCT p.tenant_number FROM job_pointers p JOIN tenants o ON o.number = p.tenant_number \
                AND (o.state = 'active' OR (o.state = 'suspended' AND $1 = 'leased')) WHERE kind = $1 AND due_at <= $2) t \
         CROSS JOIN LATERAL (SELECT job_id, due_at FROM job_pointers \
            WHERE kind = $1 AND due_at <= $2 AND tenant_number = t.tenant_number ORDER BY due_at, job_id LIMIT $3) p \
         ORDER BY p.due_at LIMIT $4",
    )
    .bind(kind)
    .bind(now)
    .bind(each)
    .bind(most)
    .fetch_all(conn)
    .await
}

/// How many pointers of each kind there are, for metrics.
pub async fn depths(conn: &mut PgConnection) -> sqlx::Result<Vec<(String, i64)>> {
    sqlx::query_as("SELECT kind, count(*) FROM job_pointers GROUP BY kind").fetch_all(conn).await
}

/// Cancels jobs that nothing leads to: after a restore under another id, beside the organization that they are of.
pub async fn cancel_pointless(conn: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE jobs SET state = 'cancelled', reason = 'restored elsewhere', reserved = false, leased_until = NULL \
         WHERE state IN ('queued', 'blocked', 'running') AND NOT EXISTS ( \
            SELECT FROM control.job_pointers p JOIN control.tenants t ON t.number = p.tenant_number \
            WHERE p.job_id = jobs.id AND current_schema() = 't_' || t.number)",
    )
    .execute(conn)
    .await?;
    Ok(())
}

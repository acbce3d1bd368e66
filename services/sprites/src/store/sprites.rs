//! Sprites: the tenant's row, and the reconciler's row in `control`.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// What the reconciler looks at.
#[derive(Clone, Debug, FromRow)]
pub struct SpriteRow {
    /// `sprite_…`
    pub id: String,
    /// Whose, there.
    pub tenant_number: i64,
    /// Which of the service's databases it is in.
    #[sqlx(skip)]
    pub part: usize,
    /// Whose.
    pub org_id: String,
    /// Its agent.
    pub agent_id: String,
    /// The step being taken, or the state reached.
    pub phase: String,
    /// The agent is paused.
    pub paused: bool,
    /// The organization's work stands still.
    pub suspended: bool,
    /// Jobs at the same time.
    pub concurrency: i32,
    /// Counts starts; part of the token.
    pub generation: i64,
    /// Starts or runs that failed in a row.
    pub failures: i32,
    /// Not before then.
    pub next_try_at: DateTime<Utc>,
    /// When it last had something to do.
    pub active_at: DateTime<Utc>,
    /// When its runner last asked for work, or was started.
    pub asked_at: Option<DateTime<Utc>>,
    /// Jobs that could be claimed now.
    pub ready: i64,
    /// Jobs that run.
    pub leased: i64,
    /// Jobs that wait for billing.
    pub queued: i64,
    /// Since when the oldest claimable one waits.
    pub oldest: Option<DateTime<Utc>>,
}

/// Every Sprite that may need a step, with what waits for it.
pub async fn to_reconcile(conn: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<Vec<SpriteRow>> {
    sqlx::query_as(
        "WITH work AS ( \
            SELECT agent_id, count(*) FILTER (WHERE kind = 'ready' AND due_at <= $1) AS ready, \
                count(*) FILTER (WHERE kind = 'leased') AS leased, \
                count(*) FILTER (WHERE kind IN ('queued', 'ready')) AS queued, \
                min(due_at) FILTER (WHERE kind = 'ready') AS oldest \
            FROM job_pointers WHERE kind <> 'blocked' GROUP BY agent_id) \
         SELECT s.id, s.tenant_number, s.org_id, s.agent_id, s.phase, s.paused, t.state <> 'active' AS suspended, \
            s.concurrency, s.generation, s.failures, \
            s.next_try_at, s.active_at, s.asked_at, coalesce(w.ready, 0) AS ready, coalesce(w.leased, 0) AS leased, \
            coalesce(w.queued, 0) AS queued, w.oldest \
         FROM sprites s JOIN tenants t ON t.number = s.tenant_number AND t.state IN ('active', 'suspended') LEFT JOIN work w USING (agent_id) \
         WHERE s.phase <> 'stopped' OR w.ready > 0",
    )
    .bind(now)
    .fetch_all(conn)
    .await
}

/// Writes the next phase, unless the Sprite was told to go meanwhile. Answers whether it was written.
pub async fn set_phase(conn: &mut PgConnection, s: &SpriteRow, phase: &str) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "UPDATE sprites SET phase = $2, failures = $3, next_try_at = $4, active_at = $5 \
         WHERE id = $1 AND (phase <> 'destroying' OR $2 = 'destroying')",
    )
    .bind(&s.id)
    .bind(phase)
    .bind(s.failures)
    .bind(s.next_try_at)
    .bind(s.active_at)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Before a start: the phase, the new generation and its token's hash.
pub async fn set_starting(
    conn: &mut PgConnection,
    id: &str,
    generation: i64,
    token_sha256: &[u8; 32],
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "UPDATE sprites SET phase = 'starting', generation = $2, token_sha256 = $3, active_at = $4, asked_at = $4 \
         WHERE id = $1 AND phase <> 'destroying'",
    )
    .bind(id)
    .bind(generation)
    .bind(token_sha256.as_slice())
    .bind(now)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that Sprites have something to do.
pub async fn touch(conn: &mut PgConnection, ids: &[String], now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("UPDATE sprites SET active_at = $2 WHERE id = ANY($1)")
        .bind(ids)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

/// A runner asks for work: it lives.
pub async fn note_asked(conn: &mut PgConnection, id: &str, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("UPDATE sprites SET asked_at = $2 WHERE id = $1").bind(id).bind(now).execute(conn).await?;
    Ok(())
}

/// All Sprites of an organization are to go; answers how many are still there.
pub async fn destroy_all(conn: &mut PgConnection, org: &str) -> sqlx::Result<i64> {
    sqlx::query(
        "UPDATE sprites SET phase = 'destroying', token_sha256 = NULL WHERE org_id = $1 AND phase <> 'destroying'",
    )
    .bind(org)
    .execute(&mut *conn)
    .await?;
    sqlx::query_scalar("SELECT count(*) FROM sprites WHERE org_id = $1").bind(org).fetch_one(conn).await
}

/// All Sprites of an organization are provisioned anew.
pub async fn provision_all(conn: &mut PgConnection, org: &str) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE control.sprites SET phase = 'provisioning', token_sha256 = NULL, asked_at = NULL, failures = 0 WHERE org_id = $1",
    )
    .bind(org)
    .execute(conn)
    .await?;
    Ok(())
}

/// Whose agent it is, whoever asks: for the broken handler of `prove-isolation --broken` alone.
#[cfg(feature = "broken")]
pub async fn org_of_agent(conn: &mut PgConnection, agent: &str) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("SELECT org_id FROM sprites WHERE agent_id = $1")
        .bind(agent)
        .fetch_optional(conn)
        .await
}

/// Forgets a destroyed Sprite.
pub async fn delete(conn: &mut PgConnection, id: &str) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM sprites WHERE id = $1 AND phase = 'destroying'").bind(id).execute(conn).await?;
    Ok(())
}

/// The ids of all Sprites there are.
pub async fn all_ids(conn: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar("SELECT id FROM sprites").fetch_all(conn).await
}

/// Whose token that is: (sprite, organization).
pub async fn by_token(conn: &mut PgConnection, sha256: &[u8]) -> sqlx::Result<Option<(String, String)>> {
    sqlx::query_as("SELECT id, org_id FROM sprites WHERE token_sha256 = $1 AND phase <> 'destroying'")
        .bind(sha256)
        .fetch_optional(conn)
        .await
}

/// What a runner needs to know of its Sprite: (agent, phase).
pub async fn of_runner(conn: &mut PgConnection, sprite: &str) -> sqlx::Result<Option<(String, String)>> {
    // Where the organization's work stands still its runners stop, whatever the reconciler has got to.
    sqlx::query_as(
        "SELECT s.agent_id, CASE WHEN t.state IN ('active', 'arriving') THEN s.phase ELSE 'stopping' END \
         FROM sprites s JOIN tenants t ON t.number = s.tenant_number WHERE s.id = $1",
    )
    .bind(sprite)
    .fetch_optional(conn)
    .await
}

/// Shows the tenant the new state.
pub async fn show(
    conn: &mut PgConnection,
    id: &str,
    state: &str,
    reason: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE sprites SET state = $2, reason = $3, changed_at = $4 WHERE id = $1 AND (state, reason) <> ($2, $3)",
    )
    .bind(id)
    .bind(state)
    .bind(reason)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

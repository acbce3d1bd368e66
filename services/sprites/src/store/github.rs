//! GitHub, in `control`: begun installs, installations, webhooks as they arrived.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

use nitejar_common::RequestCtx;
use nitejar_common::error::Result;
use nitejar_db::Db;

/// Notes a begun install.
pub async fn begin_install(
    conn: &mut PgConnection,
    state_sha256: &[u8; 32],
    ctx: &RequestCtx,
    expires_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO github_states (sha256, org_id, actor, expires_at) VALUES ($1, $2, $3, $4)")
        .bind(state_sha256.as_slice())
        .bind(ctx.tenant.as_ref().map(|t| t.as_str()).unwrap_or_default())
        .bind(Json(ctx))
        .bind(expires_at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Uses a begun install up, by the person who began it: their context, and where. None when unknown, another's, used or too
/// late.
pub async fn use_install(
    conn: &mut PgConnection,
    state_sha256: &[u8; 32],
    user: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<RequestCtx>> {
    let found: Option<Json<RequestCtx>> = sqlx::query_scalar(
        "UPDATE github_states SET used_at = $2 WHERE sha256 = $1 AND used_at IS NULL AND expires_at > $2 \
         AND actor #>> '{actor,kind}' = 'user' AND actor #>> '{actor,id}' = $3 RETURNING actor",
    )
    .bind(state_sha256.as_slice())
    .bind(now)
    .bind(user)
    .fetch_optional(conn)
    .await?;
    Ok(found.map(|j| j.0))
}

/// Keeps a webhook; whether its delivery id was new.
pub async fn keep_delivery(
    conn: &mut PgConnection,
    id: &str,
    event: &str,
    body: &[u8],
    trace: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "INSERT INTO github_deliveries (delivery_id, event, body, trace, received_at) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT DO NOTHING",
    )
    .bind(id)
    .bind(event)
    .bind(body)
    .bind(trace)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A webhook to work on.
#[derive(Clone, Debug, FromRow)]
pub struct DeliveryRow {
    /// X-GitHub-Delivery.
    pub delivery_id: String,
    /// X-GitHub-Event.
    pub event: String,
    /// The body.
    pub body: Vec<u8>,
    /// The request's `traceparent`.
    pub trace: String,
    /// Tried before.
    pub attempts: i32,
    /// When it came.
    pub received_at: DateTime<Utc>,
}

/// Takes the next webhooks, none that another replica has.
pub async fn lease_deliveries(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> sqlx::Result<Vec<DeliveryRow>> {
    sqlx::query_as(
        "UPDATE github_deliveries SET leased_until = $2, attempts = attempts + 1 WHERE delivery_id IN ( \
            SELECT delivery_id FROM github_deliveries WHERE done_at IS NULL AND (leased_until IS NULL OR leased_until < $1) \
            ORDER BY received_at LIMIT 100 FOR UPDATE SKIP LOCKED) \
         RETURNING delivery_id, event, body, trace, attempts, received_at",
    )
    .bind(now)
    .bind(until)
    .fetch_all(conn)
    .await
}

/// A webhook is worked off; its body is dropped.
pub async fn finish_delivery(
    conn: &mut PgConnection,
    id: &str,
    result: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query("UPDATE github_deliveries SET done_at = $3, result = $2, body = NULL WHERE delivery_id = $1")
        .bind(id)
        .bind(result)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

/// A webhook waits for its next attempt.
pub async fn postpone_delivery(conn: &mut PgConnection, id: &str, until: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("UPDATE github_deliveries SET leased_until = $2 WHERE delivery_id = $1")
        .bind(id)
        .bind(until)
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets old ids: GitHub redelivers for three days at the most.
pub async fn sweep(conn: &mut PgConnection, before: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM github_deliveries WHERE done_at < $1").bind(before).execute(&mut *conn).await?;
    sqlx::query("DELETE FROM github_states WHERE expires_at < $1").bind(before).execute(conn).await?;
    Ok(())
}

/// The same, in whichever of the service's databases.
pub async fn installation_anywhere(db: &Db, id: i64) -> Result<Option<(String, bool)>> {
    for part in db.parts_twice() {
        if let Some(found) = installation(&mut *part.control_once().await?, id).await? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Of two who connect the same installation, in whichever databases, the second one waits for the first one's end.
pub async fn one_at_a_time(conn: &mut PgConnection, id: i64) -> sqlx::Result<()> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('installation|' || $1, 0))")
        .bind(id.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// The organization of an installation, in one database: (organization, suspended).
pub async fn installation(conn: &mut PgConnection, id: i64) -> sqlx::Result<Option<(String, bool)>> {
    sqlx::query_as("SELECT org_id, suspended FROM github_installations WHERE installation_id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await
}

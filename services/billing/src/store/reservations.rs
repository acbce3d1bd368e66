//! Reservations: one a meter and key.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

use crate::domain::meter::Meter;

/// One reservation.
#[derive(Clone, Debug, FromRow)]
pub struct ReservationRow {
    /// A job's or an agent's id.
    pub key: String,
    /// Where it is held.
    pub period: String,
    /// `held`, `committed` or `released`.
    pub state: String,
}

/// Those of these keys that there are, locked.
pub async fn lock(
    conn: &mut PgConnection,
    meter: Meter,
    keys: &[String],
) -> sqlx::Result<Vec<ReservationRow>> {
    sqlx::query_as(
        "SELECT key, period, state FROM reservations WHERE meter = $1 AND key = ANY($2) ORDER BY key FOR UPDATE",
    )
    .bind(meter.as_str())
    .bind(keys)
    .fetch_all(conn)
    .await
}

/// The periods that these keys are held in.
pub async fn periods(conn: &mut PgConnection, meter: Meter, keys: &[String]) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar("SELECT DISTINCT period FROM reservations WHERE meter = $1 AND key = ANY($2)")
        .bind(meter.as_str())
        .bind(keys)
        .fetch_all(conn)
        .await
}

/// Holds these keys, also those that were released before.
pub async fn hold(
    conn: &mut PgConnection,
    meter: Meter,
    period: &str,
    keys: &[String],
    expires_at: Option<DateTime<Utc>>,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO reservations (meter, key, period, state, expires_at) \
         SELECT $1, key, $2, 'held', $4 FROM unnest($3::text[]) AS key \
         ON CONFLICT (meter, key) DO UPDATE SET period = excluded.period, state = 'held', expires_at = excluded.expires_at",
    )
    .bind(meter.as_str())
    .bind(period)
    .bind(keys)
    .bind(expires_at)
    .execute(&mut *conn)
    .await?;
    if let Some(due) = expires_at {
        sqlx::query("SELECT control.expire_at($1)").bind(due).execute(conn).await?;
    }
    Ok(())
}

/// Ends these keys as `committed` or `released`.
pub async fn end(conn: &mut PgConnection, meter: Meter, keys: &[String], state: &str) -> sqlx::Result<()> {
    sqlx::query("UPDATE reservations SET state = $3 WHERE meter = $1 AND key = ANY($2) AND state = 'held'")
        .bind(meter.as_str())
        .bind(keys)
        .bind(state)
        .execute(conn)
        .await?;
    Ok(())
}

/// Held keys whose time is over, with their meter; at most 500.
pub async fn expired(conn: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<Vec<(String, String)>> {
    sqlx::query_as(
        "SELECT meter, key FROM reservations WHERE state = 'held' AND expires_at <= $1 ORDER BY expires_at LIMIT 500",
    )
    .bind(now)
    .fetch_all(conn)
    .await
}

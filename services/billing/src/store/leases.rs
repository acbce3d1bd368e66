//! Leases of API calls.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// One open lease.
#[derive(Clone, Debug, FromRow)]
pub struct LeaseRow {
    /// `lease_…`
    pub id: String,
    /// Which month.
    pub period: String,
    /// Calls it allows.
    pub granted: i64,
}

/// Opens a lease.
pub async fn open(
    conn: &mut PgConnection,
    id: &str,
    period: &str,
    granted: i64,
    expires_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO api_leases (id, period, granted, state, expires_at) VALUES ($1, $2, $3, 'open', $4)",
    )
    .bind(id)
    .bind(period)
    .bind(granted)
    .bind(expires_at)
    .execute(&mut *conn)
    .await?;
    sqlx::query("SELECT control.expire_at($1)").bind(expires_at).execute(conn).await?;
    Ok(())
}

/// The month of an open lease.
pub async fn period(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("SELECT period FROM api_leases WHERE id = $1 AND state = 'open'")
        .bind(id)
        .fetch_optional(conn)
        .await
}

/// Ends an open lease; none when there is no such open one.
pub async fn close(conn: &mut PgConnection, id: &str, state: &str) -> sqlx::Result<Option<LeaseRow>> {
    sqlx::query_as(
        "UPDATE api_leases SET state = $2 WHERE id = $1 AND state = 'open' RETURNING id, period, granted",
    )
    .bind(id)
    .bind(state)
    .fetch_optional(conn)
    .await
}

/// Open leases whose time is over; at most 500.
pub async fn expired(conn: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar("SELECT id FROM api_leases WHERE state = 'open' AND expires_at <= $1 LIMIT 500")
        .bind(now)
        .fetch_all(conn)
        .await
}

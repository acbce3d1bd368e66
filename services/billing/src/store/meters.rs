//! Meters: how much of what, in which period.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

use crate::domain::meter::Meter;

/// One meter in one period.
#[derive(Clone, Debug, Default, FromRow)]
pub struct MeterRow {
    /// Which.
    pub meter: String,
    /// Counted for good.
    pub used: i64,
    /// Held.
    pub reserved: i64,
    /// When 80 % was crossed.
    pub warned_at: Option<DateTime<Utc>>,
    /// When something was first refused.
    pub blocked_at: Option<DateTime<Utc>>,
}

/// The row, locked until the transaction ends; made when missing.
pub async fn lock(conn: &mut PgConnection, period: &str, meter: Meter) -> sqlx::Result<MeterRow> {
    let select = "SELECT meter, used, reserved, warned_at, blocked_at FROM meters \
                  WHERE period = $1 AND meter = $2 FOR UPDATE";
    let found = sqlx::query_as(select).bind(period).bind(meter.as_str()).fetch_optional(&mut *conn).await?;
    if let Some(row) = found {
        return Ok(row);
    }
    sqlx::query("INSERT INTO meters (period, meter) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(period)
        .bind(meter.as_str())
        .execute(&mut *conn)
        .await?;
    sqlx::query_as(select).bind(period).bind(meter.as_str()).fetch_one(conn).await
}

/// Writes a locked row back.
pub async fn save(conn: &mut PgConnection, period: &str, row: &MeterRow) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE meters SET used = $3, reserved = $4, warned_at = $5, blocked_at = $6 WHERE period = $1 AND meter = $2",
    )
    .bind(period)
    .bind(&row.meter)
    .bind(row.used)
    .bind(row.reserved)
    .bind(row.warned_at)
    .bind(row.blocked_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// The rows of a period and of what exists.
pub async fn of_period(conn: &mut PgConnection, period: &str) -> sqlx::Result<Vec<MeterRow>> {
    sqlx::query_as(
        "SELECT meter, used, reserved, warned_at, blocked_at FROM meters WHERE period IN ($1, 'live')",
    )
    .bind(period)
    .fetch_all(conn)
    .await
}

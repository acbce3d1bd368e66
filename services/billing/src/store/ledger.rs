//! The ledger: what was counted, for good.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

use crate::domain::meter::Meter;

/// One entry.
#[derive(Clone, Debug, FromRow)]
pub struct EntryRow {
    /// Position.
    pub sequence: i64,
    /// Which meter.
    pub meter: String,
    /// What for.
    pub key: String,
    /// Units.
    pub quantity: i64,
    /// Which month.
    pub period: String,
    /// When.
    pub recorded_at: DateTime<Utc>,
}

/// Counts each key once for ever, with its period; answers which periods got how many new ones.
pub async fn record(
    conn: &mut PgConnection,
    meter: Meter,
    keys: &[String],
    periods: &[String],
    quantities: &[i64],
    at: DateTime<Utc>,
) -> sqlx::Result<Vec<(String, i64)>> {
    sqlx::query_as(
        "WITH new AS ( \
            INSERT INTO ledger (meter, key, quantity, period, recorded_at) \
            SELECT $1, u.key, u.quantity, u.period, $5 \
            FROM unnest($2::text[], $3::text[], $4::bigint[]) AS u (key, period, quantity) \
            ON CONFLICT (meter, key) DO NOTHING RETURNING period, quantity) \
         SELECT period, sum(quantity)::bigint FROM new GROUP BY period",
    )
    .bind(meter.as_str())
    .bind(keys)
    .bind(periods)
    .bind(quantities)
    .bind(at)
    .fetch_all(conn)
    .await
}

/// Entries after a position, oldest first.
pub async fn list(
    conn: &mut PgConnection,
    meter: &str,
    after: i64,
    limit: i64,
) -> sqlx::Result<Vec<EntryRow>> {
    sqlx::query_as(
        "SELECT sequence, meter, key, quantity, period, recorded_at FROM ledger \
         WHERE sequence > $1 AND ($2 = '' OR meter = $2) ORDER BY sequence LIMIT $3",
    )
    .bind(after)
    .bind(meter)
    .bind(limit)
    .fetch_all(conn)
    .await
}

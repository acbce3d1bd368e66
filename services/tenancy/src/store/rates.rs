//! What all gateways admitted, in `control`.

use sqlx::PgConnection;

/// Adds counts of (subject, minute) and answers the sums. Each pair stands once.
pub async fn add(
    conn: &mut PgConnection,
    subjects: &[Vec<u8>],
    minutes: &[i64],
    counts: &[i64],
) -> sqlx::Result<Vec<(Vec<u8>, i64, i64)>> {
    // In one order, so that two gateways do not wait for each other in a ring.
    sqlx::query_as(
        "INSERT INTO rates AS r (subject, minute, count) \
         SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[]) AS new (subject, minute, count) ORDER BY 1, 2 \
         ON CONFLICT (subject, minute) DO UPDATE SET count = r.count + excluded.count RETURNING subject, minute, count",
    )
    .bind(subjects)
    .bind(minutes)
    .bind(counts)
    .fetch_all(conn)
    .await
}

/// Forgets minutes before `minute`.
pub async fn forget(conn: &mut PgConnection, minute: i64) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM rates WHERE minute < $1").bind(minute).execute(conn).await?;
    Ok(())
}

//! Pointers to tenants that have something to expire, in `control`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// Due pointers: (id, tenant number). Two replicas may find the same one; ending twice changes nothing.
pub async fn find(conn: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<Vec<(i64, i64)>> {
    sqlx::query_as(
        "SELECT id, tenant_number FROM control.expiry_due d WHERE due_at <= $1 \
         AND NOT EXISTS (SELECT FROM control.tenants WHERE number = d.tenant_number AND state = 'arriving') \
         ORDER BY due_at LIMIT 1000",
    )
    .bind(now)
    .fetch_all(conn)
    .await
}

/// Forgets pointers.
pub async fn delete(conn: &mut PgConnection, ids: &[i64]) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM control.expiry_due WHERE id = ANY($1)").bind(ids).execute(conn).await?;
    Ok(())
}

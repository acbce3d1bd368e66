//! Sealed mails in an outbox: the connection's own, an organization's or `control`'s.

use sqlx::PgConnection;

/// At a time.
const BATCH: i64 = 500;

/// Mails after `seq`, dead ones, too: (seq, id, sealed).
pub async fn after(conn: &mut PgConnection, seq: i64) -> sqlx::Result<Vec<(i64, String, Vec<u8>)>> {
    sqlx::query_as(
        "SELECT seq, id, payload FROM outbox WHERE topic = 'mail' AND seq > $1 ORDER BY seq LIMIT $2",
    )
    .bind(seq)
    .bind(BATCH)
    .fetch_all(conn)
    .await
}

/// Writes a mail that was sealed anew.
pub async fn replace(conn: &mut PgConnection, id: &str, sealed: &[u8]) -> sqlx::Result<()> {
    sqlx::query("UPDATE outbox SET payload = $2 WHERE id = $1").bind(id).bind(sealed).execute(conn).await?;
    Ok(())
}

/// Organizations after that id whose outboxes hold something that waits, in `control`.
pub async fn orgs_with_waiting(conn: &mut PgConnection, after: &str) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT DISTINCT t.org_id FROM outbox_due d JOIN tenants t ON t.number = d.tenant_number \
         WHERE t.state IN ('active', 'suspended') AND t.org_id > $1 ORDER BY 1 LIMIT $2",
    )
    .bind(after)
    .bind(BATCH)
    .fetch_all(conn)
    .await
}

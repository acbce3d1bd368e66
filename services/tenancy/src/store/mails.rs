//! Mails in an outbox, by the key that sealed them: the connection's own, an organization's or `control`'s.

use sqlx::PgConnection;

use crate::domain::envelope::MARK;

/// At a time.
const BATCH: i64 = 500;

/// Mails that do not begin with that mark, locked: (id, sealed).
pub async fn lock_sealed_before(
    conn: &mut PgConnection,
    mark: &[u8; MARK],
) -> sqlx::Result<Vec<(String, Vec<u8>)>> {
    sqlx::query_as(
        "SELECT id, payload FROM outbox WHERE topic = 'mail' AND substring(payload FROM 1 FOR length($1)) <> $1 \
         ORDER BY seq LIMIT $2 FOR UPDATE",
    )
    .bind(mark.as_slice())
    .bind(BATCH)
    .fetch_all(conn)
    .await
}

/// How many they are.
pub async fn count_sealed_before(conn: &mut PgConnection, mark: &[u8; MARK]) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "SELECT count(*) FROM outbox WHERE topic = 'mail' AND substring(payload FROM 1 FOR length($1)) <> $1",
    )
    .bind(mark.as_slice())
    .fetch_one(conn)
    .await
}

/// Writes a mail that was sealed anew.
pub async fn replace(conn: &mut PgConnection, id: &str, sealed: &[u8]) -> sqlx::Result<()> {
    sqlx::query("UPDATE outbox SET payload = $2 WHERE id = $1").bind(id).bind(sealed).execute(conn).await?;
    Ok(())
}

//! Invitations, and the pointer from a token to its organization.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// An invitation.
#[derive(Clone, Debug, FromRow)]
pub struct InvitationRow {
    /// `inv_…`
    pub id: String,
    /// The invited address.
    pub email: String,
    /// The role it gives.
    pub role: String,
    /// Custom roles it gives beside that.
    pub role_ids: Vec<String>,
    /// `pending`, `accepted`, `declined` or `revoked`. See [`InvitationRow::state_at`].
    pub state: String,
    /// Who accepted it.
    pub accepted_by: Option<String>,
    /// Until when.
    pub expires_at: DateTime<Utc>,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// How often its mail was written.
    pub sent: i32,
}

impl InvitationRow {
    /// What it is by now.
    pub fn state_at(&self, now: DateTime<Utc>) -> &str {
        match self.state.as_str() {
            "pending" if self.expires_at <= now => "expired",
            state => state,
        }
    }
}

/// Adds one. `giver`: whose right it hands on.
pub async fn insert(
    conn: &mut PgConnection,
    row: &InvitationRow,
    token_sha256: &[u8; 32],
    giver: &str,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO invitations (id, email, role, token_sha256, state, expires_at, created_at, role_ids, invited_by) \
         VALUES ($1, $2, $3, $4, 'pending', $5, $6, $7, $8)",
    )
    .bind(&row.id)
    .bind(&row.email)
    .bind(&row.role)
    .bind(token_sha256.as_slice())
    .bind(row.expires_at)
    .bind(row.created_at)
    .bind(&row.role_ids)
    .bind(giver)
    .execute(&mut *conn)
    .await?;
    sqlx::query("SELECT control.invitation_put($1)").bind(token_sha256.as_slice()).execute(conn).await?;
    Ok(())
}

/// Makes room for a new one to the same address: an expired one no longer counts as pending.
pub async fn revoke_expired(conn: &mut PgConnection, email: &str, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("UPDATE invitations SET state = 'revoked' WHERE email = $1 AND state = 'pending' AND expires_at <= $2")
        .bind(email)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

/// The organization of a token, in `control`.
pub async fn org_of(conn: &mut PgConnection, token_sha256: &[u8; 32]) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("SELECT org_id FROM invitation_tokens WHERE sha256 = $1")
        .bind(token_sha256.as_slice())
        .fetch_optional(conn)
        .await
}

/// The invitation of a token, locked.
pub async fn lock_by_token(
    conn: &mut PgConnection,
    token_sha256: &[u8; 32],
) -> sqlx::Result<Option<InvitationRow>> {
    sqlx::query_as("SELECT id, email, role, role_ids, state, accepted_by, expires_at, created_at, sent FROM invitations WHERE token_sha256 = $1 FOR UPDATE")
        .bind(token_sha256.as_slice())
        .fetch_optional(conn)
        .await
}

/// One invitation, locked.
pub async fn lock(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<InvitationRow>> {
    sqlx::query_as("SELECT id, email, role, role_ids, state, accepted_by, expires_at, created_at, sent FROM invitations WHERE id = $1 FOR UPDATE").bind(id).fetch_optional(conn).await
}

/// Those in these states after an id. One that waits longer than it may is expired.
pub async fn list(
    conn: &mut PgConnection,
    states: &[&str],
    now: DateTime<Utc>,
    after: &str,
    limit: i64,
) -> sqlx::Result<Vec<InvitationRow>> {
    sqlx::query_as(
        "SELECT id, email, role, role_ids, state, accepted_by, expires_at, created_at, sent FROM invitations \
         WHERE CASE WHEN state = 'pending' AND expires_at <= $1 THEN 'expired' ELSE state END = ANY ($2) AND id > $3 \
         ORDER BY id LIMIT $4",
    )
    .bind(now)
    .bind(states)
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// How many are pending.
pub async fn count_pending(conn: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT count(*) FROM invitations WHERE state = 'pending' AND expires_at > $1")
        .bind(now)
        .fetch_one(conn)
        .await
}

/// Which of these addresses have a pending one.
pub async fn pending_of(
    conn: &mut PgConnection,
    emails: &[String],
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT email FROM invitations WHERE email = ANY ($1) AND state = 'pending' AND expires_at > $2",
    )
    .bind(emails)
    .bind(now)
    .fetch_all(conn)
    .await
}

/// Which of these addresses got so many mails of this organization's invitations since then that they get no more.
pub async fn mailed_often(
    conn: &mut PgConnection,
    emails: &[String],
    since: DateTime<Utc>,
    most: i64,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT email FROM invitations WHERE email = ANY ($1) AND coalesce(sent_at, created_at) > $2 GROUP BY email HAVING sum(sent) >= $3",
    )
    .bind(emails)
    .bind(since)
    .bind(most)
    .fetch_all(conn)
    .await
}

/// Whose right a locked one hands on; empty when it is older than such notes.
pub async fn giver(conn: &mut PgConnection, id: &str) -> sqlx::Result<String> {
    sqlx::query_scalar("SELECT invited_by FROM invitations WHERE id = $1").bind(id).fetch_one(conn).await
}

/// Gives a locked one a new token, time and giver. The token before leads nowhere from then on.
pub async fn renew(
    conn: &mut PgConnection,
    id: &str,
    token_sha256: &[u8; 32],
    (sent_at, expires_at): (DateTime<Utc>, DateTime<Utc>),
    giver: &str,
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE invitations SET token_sha256 = $2, expires_at = $3, invited_by = $4, sent_at = $5, sent = sent + 1 WHERE id = $1",
    )
    .bind(id)
    .bind(token_sha256.as_slice())
    .bind(expires_at)
    .bind(giver)
    .bind(sent_at)
    .execute(&mut *conn)
    .await?;
    sqlx::query("SELECT control.invitation_put($1)").bind(token_sha256.as_slice()).execute(conn).await?;
    Ok(())
}

/// Ends one.
pub async fn end(
    conn: &mut PgConnection,
    id: &str,
    state: &str,
    accepted_by: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query("UPDATE invitations SET state = $2, accepted_by = $3 WHERE id = $1")
        .bind(id)
        .bind(state)
        .bind(accepted_by)
        .execute(conn)
        .await?;
    Ok(())
}

//! Links and sessions, in `control`. Only hashes of their secrets are here.

use chrono::{DateTime, Duration, Utc};
use sqlx::{FromRow, PgConnection};

/// A link that was asked for.
#[derive(Clone, Debug)]
pub struct SignIn<'a> {
    /// Of what the link holds.
    pub token: [u8; 32],
    /// Of the browser that asked.
    pub browser: [u8; 32],
    /// Whose link.
    pub email: &'a str,
    /// The network that it was asked from.
    pub network: &'a str,
}

/// A living session as a credential: who, and how its secret stands.
#[derive(Clone, Debug, FromRow)]
pub struct Found {
    /// `session_…`
    pub id: String,
    /// Whose.
    pub user_id: String,
    /// That person's name.
    pub user_name: String,
    /// Their role in the organization asked for.
    pub member_role: Option<String>,
    /// What custom roles add to it.
    pub member_grants: Option<Vec<String>>,
    /// Of that organization, while there is one for anybody.
    pub org_state: Option<String>,
    /// The secret is the newest; otherwise it is the one before, or an abandoned one.
    pub newest: bool,
    /// The secret was replaced unused.
    pub abandoned: bool,
    /// A secret that stays.
    pub lasting: Vec<u8>,
    /// There is one before.
    pub rotated: bool,
    /// When the newest was made.
    pub rotated_at: DateTime<Utc>,
    /// When the newest was first used.
    pub confirmed_at: Option<DateTime<Utc>>,
    /// Last noted use.
    pub last_seen_at: DateTime<Utc>,
    /// When it ends by itself.
    pub expires_at: DateTime<Utc>,
    /// When its browser signed in.
    pub created_at: DateTime<Utc>,
}

/// A session as its owner sees it.
#[derive(Clone, Debug, FromRow)]
pub struct SessionRow {
    /// `session_…`
    pub id: String,
    /// Of its newest secret.
    pub sha256: Vec<u8>,
    /// Of the one before.
    pub previous_sha256: Option<Vec<u8>>,
    /// What the browser called itself.
    pub user_agent: String,
    /// Where it signed in from.
    pub address: String,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// Last noted use.
    pub last_seen_at: DateTime<Utc>,
    /// When it ends by itself.
    pub expires_at: DateTime<Utc>,
}

/// How many links were asked for.
#[derive(Clone, Copy, Debug, FromRow)]
pub struct Asked {
    /// For the address of mail.
    pub email: i64,
    /// From the network.
    pub network: i64,
    /// For that address and from there.
    pub both: i64,
}

/// How many links were asked for since then.
pub async fn asked_since(
    conn: &mut PgConnection,
    email: &str,
    network: &str,
    since: DateTime<Utc>,
) -> sqlx::Result<Asked> {
    sqlx::query_as(
        "SELECT (SELECT count(*) FROM sign_ins WHERE email = $1 AND created_at > $3) AS email, \
         (SELECT count(*) FROM sign_ins WHERE network = $2 AND created_at > $3) AS network, \
         (SELECT count(*) FROM sign_ins WHERE email = $1 AND network = $2 AND created_at > $3) AS both",
    )
    .bind(email)
    .bind(network)
    .bind(since)
    .fetch_one(conn)
    .await
}

/// One at a time for an address of mail, and from a network, so that many at once are counted as well. Always in this order,
/// so that no two wait for each other.
pub async fn lock_asking(conn: &mut PgConnection, email: &str, network: &str) -> sqlx::Result<()> {
    for (number, text) in [(1, email), (2, network)] {
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, $2))")
            .bind(text)
            .bind(number)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Adds a link.
pub async fn ask(
    conn: &mut PgConnection,
    sign_in: &SignIn<'_>,
    now: DateTime<Utc>,
    expires_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO sign_ins (token_sha256, browser_sha256, email, network, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(sign_in.token.as_slice())
    .bind(sign_in.browser.as_slice())
    .bind(sign_in.email)
    .bind(sign_in.network)
    .bind(now)
    .bind(expires_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Uses a link, once and in its browser; answers whose it is.
pub async fn use_link(
    conn: &mut PgConnection,
    token: &[u8; 32],
    browser: &[u8; 32],
    now: DateTime<Utc>,
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar(
        "UPDATE sign_ins SET used_at = $3 \
         WHERE token_sha256 = $1 AND browser_sha256 = $2 AND used_at IS NULL AND expires_at > $3 RETURNING email",
    )
    .bind(token.as_slice())
    .bind(browser.as_slice())
    .bind(now)
    .fetch_optional(conn)
    .await
}

/// Adds a session.
pub async fn insert(conn: &mut PgConnection, user_id: &str, session: &SessionRow) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO sessions \
         (id, user_id, sha256, rotated_at, user_agent, address, created_at, last_seen_at, expires_at, lasting) \
         VALUES ($1, $2, $3, $6, $4, $5, $6, $6, $7, $8)",
    )
    .bind(&session.id)
    .bind(user_id)
    .bind(&session.sha256)
    .bind(&session.user_agent)
    .bind(&session.address)
    .bind(session.created_at)
    .bind(session.expires_at)
    .bind(nitejar_common::rng::bytes::<32>().as_slice())
    .execute(conn)
    .await?;
    Ok(())
}

/// What names a session.
#[derive(Clone, Copy, Debug)]
pub enum Named<'a> {
    /// SHA-256 of its secret, also of one before.
    Secret(&'a [u8]),
    /// Its id: for requests that it let in before.
    Id(&'a str),
}

/// The living session of that name. By its id it is `newest`: no secret was shown that could be an old one.
pub async fn resolve(
    conn: &mut PgConnection,
    named: Named<'_>,
    org: &str,
    now: DateTime<Utc>,
    idle: Duration,
) -> sqlx::Result<Option<Found>> {
    let (sha256, id) = match named {
        Named::Secret(sha256) => (Some(sha256), None),
        Named::Id(id) => (None, Some(id)),
    };
    sqlx::query_as(
        "SELECT s.id, s.user_id, u.name AS user_name, m.role AS member_role, m.grants AS member_grants, s.created_at, \
         (SELECT o.state FROM orgs o WHERE o.id = $2 AND o.state IN ('active', 'suspended', 'deleting')) AS org_state, \
         coalesce(s.sha256 = $1, true) AS newest, coalesce(s.abandoned_sha256 = $1, false) AS abandoned, \
         s.lasting, s.previous_sha256 IS NOT NULL AS rotated, s.rotated_at, s.confirmed_at, s.last_seen_at, s.expires_at \
         FROM sessions s JOIN users u ON u.id = s.user_id AND u.deleted_at IS NULL \
         LEFT JOIN memberships m ON m.user_id = s.user_id AND m.org_id = $2 \
         WHERE (s.id = $5 OR s.sha256 = $1 OR s.previous_sha256 = $1 OR s.abandoned_sha256 = $1) \
         AND s.revoked_at IS NULL AND s.expires_at > $3 AND s.last_seen_at > $4",
    )
    .bind(sha256)
    .bind(org)
    .bind(now)
    .bind(now - idle)
    .bind(id)
    .fetch_optional(conn)
    .await
}

/// Notes a use of a secret; the first one of the newest confirms it. Which is the newest is asked here: another request may
/// have replaced it since it was looked up.
pub async fn touch(
    conn: &mut PgConnection,
    id: &str,
    now: DateTime<Utc>,
    presented: &[u8],
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE sessions SET last_seen_at = $2, \
         confirmed_at = CASE WHEN sha256 = $3 THEN coalesce(confirmed_at, $2) ELSE confirmed_at END WHERE id = $1",
    )
    .bind(id)
    .bind(now)
    .bind(presented)
    .execute(conn)
    .await?;
    Ok(())
}

/// Gives a session a new secret, if `presented` is its newest one and older than `before`, or if the newest one, that old,
/// was never used: its browser did not get it. Answers whether it did.
pub async fn rotate(
    conn: &mut PgConnection,
    presented: &[u8],
    new: &[u8; 32],
    now: DateTime<Utc>,
    before: DateTime<Utc>,
    lost_before: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "UPDATE sessions SET previous_sha256 = $1, sha256 = $2, rotated_at = $3, confirmed_at = NULL, \
         abandoned_sha256 = CASE WHEN sha256 = $1 THEN abandoned_sha256 ELSE sha256 END \
         WHERE revoked_at IS NULL AND ((sha256 = $1 AND rotated_at < $4) \
         OR (previous_sha256 = $1 AND confirmed_at IS NULL AND rotated_at < $5))",
    )
    .bind(presented)
    .bind(new.as_slice())
    .bind(now)
    .bind(before)
    .bind(lost_before)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A person's living sessions, the newest first.
pub async fn of_user(
    conn: &mut PgConnection,
    user_id: &str,
    now: DateTime<Utc>,
    idle: Duration,
) -> sqlx::Result<Vec<SessionRow>> {
    sqlx::query_as(
        "SELECT id, sha256, previous_sha256, user_agent, address, created_at, last_seen_at, expires_at FROM sessions \
         WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > $2 AND last_seen_at > $3 \
         ORDER BY last_seen_at DESC, id DESC LIMIT 100",
    )
    .bind(user_id)
    .bind(now)
    .bind(now - idle)
    .fetch_all(conn)
    .await
}

/// Where a person signed in before, as far back as it is known: (what the browser called itself, address).
pub async fn places(conn: &mut PgConnection, user_id: &str) -> sqlx::Result<Vec<(String, String)>> {
    sqlx::query_as("SELECT DISTINCT user_agent, address FROM sessions WHERE user_id = $1 LIMIT 500")
        .bind(user_id)
        .fetch_all(conn)
        .await
}

/// Ends a person's sessions: the one with that id, the one with that secret, or, with neither, all. Answers which.
pub async fn revoke(
    conn: &mut PgConnection,
    user_id: &str,
    id: Option<&str>,
    sha256: Option<&[u8]>,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "UPDATE sessions SET revoked_at = $4 WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > $4 AND ($2::text IS NULL OR id = $2) \
         AND ($3::bytea IS NULL OR sha256 = $3 OR previous_sha256 = $3) RETURNING id",
    )
    .bind(user_id)
    .bind(id)
    .bind(sha256)
    .bind(now)
    .fetch_all(conn)
    .await
}

/// Ends what is beyond `most` of a person's living sessions, those first that were used longest ago. Answers which.
pub async fn end_unused(
    conn: &mut PgConnection,
    user_id: &str,
    most: i64,
    now: DateTime<Utc>,
    idle: Duration,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "UPDATE sessions SET revoked_at = $3 WHERE id IN (SELECT id FROM sessions WHERE user_id = $1 AND revoked_at IS NULL \
         AND expires_at > $3 AND last_seen_at > $4 ORDER BY last_seen_at DESC, id DESC OFFSET $2) RETURNING id",
    )
    .bind(user_id)
    .bind(most)
    .bind(now)
    .bind(now - idle)
    .fetch_all(conn)
    .await
}

/// Whether a person ever had that session.
pub async fn exists(conn: &mut PgConnection, user_id: &str, id: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM sessions WHERE user_id = $1 AND id = $2)")
        .bind(user_id)
        .bind(id)
        .fetch_one(conn)
        .await
}

/// Forgets links of more than a day ago, and sessions that ended a month ago.
pub async fn forget(conn: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<()> {
    let (day, month) = (now - Duration::days(1), now - Duration::days(30));
    sqlx::query("DELETE FROM sign_ins WHERE created_at < $1").bind(day).execute(&mut *conn).await?;
    sqlx::query("DELETE FROM sessions WHERE expires_at < $1").bind(month).execute(conn).await?;
    Ok(())
}

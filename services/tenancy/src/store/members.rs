//! Members, and their copy in `control` that finds a person's organizations.

use chrono::{DateTime, Utc};
use nitejar_common::key;
use sqlx::{FromRow, PgConnection};

use crate::store::orgs::Owner;

/// A member.
#[derive(Clone, Debug, FromRow)]
pub struct MemberRow {
    /// `user_…`
    pub user_id: String,
    /// E-mail address.
    pub email: String,
    /// Display name.
    pub name: String,
    /// Their role.
    pub role: String,
    /// Since when.
    pub joined_at: DateTime<Utc>,
}

/// Adds a member; whether it was new.
pub async fn insert(conn: &mut PgConnection, m: &MemberRow) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "INSERT INTO members (user_id, email, name, role, joined_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
    )
    .bind(&m.user_id)
    .bind(&m.email)
    .bind(&m.name)
    .bind(&m.role)
    .bind(m.joined_at)
    .execute(&mut *conn)
    .await?;
    let new = done.rows_affected() == 1;
    if new {
        sqlx::query("DELETE FROM departures WHERE who IN ($1, $2)")
            .bind(&m.user_id)
            .bind(address_hash(&m.email))
            .execute(&mut *conn)
            .await?;
        put_copy(conn, &m.user_id, &m.role).await?;
    }
    Ok(new)
}

async fn put_copy(conn: &mut PgConnection, user: &str, role: &str) -> sqlx::Result<()> {
    sqlx::query("SELECT control.member_put($1, $2)").bind(user).bind(role).execute(conn).await?;
    Ok(())
}

/// One member, locked.
pub async fn lock(conn: &mut PgConnection, user: &str) -> sqlx::Result<Option<MemberRow>> {
    sqlx::query_as("SELECT user_id, email, name, role, joined_at FROM members WHERE user_id = $1 FOR UPDATE")
        .bind(user)
        .fetch_optional(conn)
        .await
}

/// One member.
pub async fn get(conn: &mut PgConnection, user: &str) -> sqlx::Result<Option<MemberRow>> {
    sqlx::query_as("SELECT user_id, email, name, role, joined_at FROM members WHERE user_id = $1")
        .bind(user)
        .fetch_optional(conn)
        .await
}

/// One member, who stays one until the transaction ends.
pub async fn hold(conn: &mut PgConnection, user: &str) -> sqlx::Result<Option<MemberRow>> {
    sqlx::query_as(
        "SELECT user_id, email, name, role, joined_at FROM members WHERE user_id = $1 FOR KEY SHARE",
    )
    .bind(user)
    .fetch_optional(conn)
    .await
}

/// All owners, locked: two who leave at the same time can't both believe that the other stays. The organization is locked
/// first: whoever waits for another change sees afterwards whom that made an owner.
pub async fn lock_owners(conn: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query("SELECT FROM org FOR UPDATE").execute(&mut *conn).await?;
    sqlx::query_scalar("SELECT user_id FROM members WHERE role = 'owner' ORDER BY user_id FOR UPDATE")
        .fetch_all(conn)
        .await
}

/// Who owns the organization.
pub async fn owners(conn: &mut PgConnection) -> sqlx::Result<Vec<Owner>> {
    sqlx::query_as("SELECT user_id AS id, email FROM members WHERE role = 'owner' ORDER BY user_id")
        .fetch_all(conn)
        .await
}

/// How many there are.
pub async fn count(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT count(*) FROM members").fetch_one(conn).await
}

/// Whether one of these addresses is a member's: those that are.
pub async fn with_emails(conn: &mut PgConnection, emails: &[String]) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar("SELECT email FROM members WHERE email = ANY ($1)").bind(emails).fetch_all(conn).await
}

/// Members after an id; empty texts do not filter. Letters of every script have a case, which the database's own collation may
/// not know.
pub async fn list(
    conn: &mut PgConnection,
    query: &str,
    role: &str,
    after: &str,
    limit: i64,
) -> sqlx::Result<Vec<MemberRow>> {
    sqlx::query_as(
        "SELECT user_id, email, name, role, joined_at FROM members WHERE user_id > $1 \
         AND ($3 = '' OR position(lower($3 COLLATE \"und-x-icu\") IN lower(name || ' ' || email COLLATE \"und-x-icu\")) > 0) \
         AND ($4 = '' OR role = $4) \
         ORDER BY user_id LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .bind(query)
    .bind(role)
    .fetch_all(conn)
    .await
}

/// Gives a role.
pub async fn set_role(conn: &mut PgConnection, user: &str, role: &str) -> sqlx::Result<()> {
    sqlx::query("UPDATE members SET role = $2 WHERE user_id = $1")
        .bind(user)
        .bind(role)
        .execute(&mut *conn)
        .await?;
    if role != "owner" {
        end_offer_of(conn, user).await?;
    }
    put_copy(conn, user, role).await
}

/// Who owns nothing offers nothing: without this the offer would be good again once they are made an owner again.
async fn end_offer_of(conn: &mut PgConnection, user: &str) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM ownership_offer WHERE from_user = $1").bind(user).execute(conn).await?;
    Ok(())
}

/// Removes a member.
pub async fn delete(conn: &mut PgConnection, user: &str) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM members WHERE user_id = $1").bind(user).execute(&mut *conn).await?;
    end_offer_of(conn, user).await?;
    // Nothing of a person who is gone stays but their id.
    sqlx::query("UPDATE invitations SET email = accepted_by || '@left.invalid' WHERE accepted_by = $1")
        .bind(user)
        .execute(&mut *conn)
        .await?;
    sqlx::query("SELECT control.member_remove($1)").bind(user).execute(conn).await?;
    Ok(())
}

/// What an address is noted as: it is not kept itself.
fn address_hash(email: &str) -> String {
    // `ada+new@…` reaches who was removed as `ada@…`.
    let (local, host) = email.rsplit_once('@').unwrap_or((email, ""));
    let mailbox = local.split_once('+').map_or(local, |(mailbox, _)| mailbox);
    hex::encode(key::sha256(&format!("nitejar departure {mailbox}@{host}")))
}

/// Notes that somebody is gone, or does not want to come: their domain alone does not bring them in. Who was removed stays so
/// also under another account with the same address.
pub async fn depart(conn: &mut PgConnection, user: &str, email: &str, removed: bool) -> sqlx::Result<()> {
    let mut who = vec![user.to_owned()];
    if removed {
        who.push(address_hash(email));
    }
    sqlx::query(
        "INSERT INTO departures (who, removed) SELECT unnest($1::text[]), $2 \
         ON CONFLICT (who) DO UPDATE SET removed = departures.removed OR excluded.removed",
    )
    .bind(who)
    .bind(removed)
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether they were removed; none when nothing is noted.
pub async fn departure(conn: &mut PgConnection, user: &str, email: &str) -> sqlx::Result<Option<bool>> {
    sqlx::query_scalar("SELECT bool_or(removed) FROM departures WHERE who IN ($1, $2)")
        .bind(user)
        .bind(address_hash(email))
        .fetch_one(conn)
        .await
}

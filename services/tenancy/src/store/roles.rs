//! Custom roles, who has them, and the copy in `control` of what they add.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// A custom role.
#[derive(Clone, Debug, FromRow)]
pub struct RoleRow {
    /// `role_…`
    pub id: String,
    /// Unique without regard to case.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// What it permits, sorted.
    pub permissions: Vec<String>,
    /// Counts up with each change.
    pub version: i64,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

const SELECT: &str = "SELECT id, name, description, permissions, version, created_at FROM roles";

/// Adds a role.
pub async fn insert(conn: &mut PgConnection, role: &RoleRow) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO roles (id, name, description, permissions, version, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&role.id)
    .bind(&role.name)
    .bind(&role.description)
    .bind(&role.permissions)
    .bind(role.version)
    .bind(role.created_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// How many there are. Nobody makes another one until this transaction ends.
pub async fn count(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query("LOCK TABLE roles IN SHARE ROW EXCLUSIVE MODE").execute(&mut *conn).await?;
    sqlx::query_scalar("SELECT count(*) FROM roles").fetch_one(conn).await
}

/// Roles after an id.
pub async fn list(conn: &mut PgConnection, after: &str, limit: i64) -> sqlx::Result<Vec<RoleRow>> {
    sqlx::query_as(const_format(SELECT, "WHERE id > $1 ORDER BY id LIMIT $2"))
        .bind(after)
        .bind(limit)
        .fetch_all(conn)
        .await
}

/// Those of these roles that there are, kept from changing until the transaction ends.
pub async fn lock(conn: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<RoleRow>> {
    sqlx::query_as(const_format(SELECT, "WHERE id = ANY ($1) ORDER BY id FOR UPDATE"))
        .bind(ids)
        .fetch_all(conn)
        .await
}

/// One role.
pub async fn get(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<RoleRow>> {
    sqlx::query_as(const_format(SELECT, "WHERE id = $1")).bind(id).fetch_optional(conn).await
}

/// A name as it is compared, and those of all other roles: written in another width, or with combined marks, it is the same
/// (NFKC). Case is left to the caller, for the database's own lower() knows ASCII only.
pub async fn compared_names(
    conn: &mut PgConnection,
    id: &str,
    name: &str,
) -> sqlx::Result<(String, Vec<String>)> {
    let this =
        sqlx::query_scalar("SELECT normalize($1::text, NFKC)").bind(name).fetch_one(&mut *conn).await?;
    let others = sqlx::query_scalar("SELECT normalize(name, NFKC) FROM roles WHERE id <> $1")
        .bind(id)
        .fetch_all(conn)
        .await?;
    Ok((this, others))
}

fn const_format(head: &str, rest: &str) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!("{head} {rest}"))
}

/// Nobody changes a role, or who has which, until the transaction ends: what it copies to `control` is what holds then.
/// Taken before any row.
pub async fn one_at_a_time(conn: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '|grants', 0))")
        .execute(conn)
        .await?;
    Ok(())
}

/// Writes a locked role back.
pub async fn save(conn: &mut PgConnection, role: &RoleRow) -> sqlx::Result<()> {
    sqlx::query("UPDATE roles SET name = $2, description = $3, permissions = $4, version = $5 WHERE id = $1")
        .bind(&role.id)
        .bind(&role.name)
        .bind(&role.description)
        .bind(&role.permissions)
        .bind(role.version)
        .execute(&mut *conn)
        .await?;
    let (members, keys) = holders(conn, &role.id).await?;
    copy(conn, &members, &keys).await
}

/// Deletes a role, and takes it from everybody who has it.
pub async fn delete(conn: &mut PgConnection, id: &str) -> sqlx::Result<()> {
    let (members, keys) = holders(conn, id).await?;
    sqlx::query("DELETE FROM roles WHERE id = $1").bind(id).execute(&mut *conn).await?;
    copy(conn, &members, &keys).await
}

async fn holders(conn: &mut PgConnection, id: &str) -> sqlx::Result<(Vec<String>, Vec<String>)> {
    let members = sqlx::query_scalar("SELECT user_id FROM member_roles WHERE role_id = $1")
        .bind(id)
        .fetch_all(&mut *conn)
        .await?;
    let keys = sqlx::query_scalar("SELECT key_id FROM key_roles WHERE role_id = $1")
        .bind(id)
        .fetch_all(conn)
        .await?;
    Ok((members, keys))
}

/// Gives a member these roles and no others.
pub async fn set_of_member(conn: &mut PgConnection, user: &str, roles: &[String]) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM member_roles WHERE user_id = $1 AND role_id <> ALL ($2)")
        .bind(user)
        .bind(roles)
        .execute(&mut *conn)
        .await?;
    sqlx::query(
        "INSERT INTO member_roles (user_id, role_id) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING",
    )
    .bind(user)
    .bind(roles)
    .execute(&mut *conn)
    .await?;
    copy(conn, &[user.to_owned()], &[]).await
}

/// Gives a new key these roles.
pub async fn set_of_key(conn: &mut PgConnection, key: &str, roles: &[String]) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO key_roles (key_id, role_id) SELECT $1, unnest($2::text[])")
        .bind(key)
        .bind(roles)
        .execute(&mut *conn)
        .await?;
    copy(conn, &[], &[key.to_owned()]).await
}

/// The custom roles of a member, or of a key.
pub async fn of_actor(conn: &mut PgConnection, actor: &str) -> sqlx::Result<Vec<RoleRow>> {
    sqlx::query_as(const_format(
        SELECT,
        "WHERE id IN (SELECT role_id FROM member_roles WHERE user_id = $1 \
         UNION ALL SELECT role_id FROM key_roles WHERE key_id = $1) ORDER BY id",
    ))
    .bind(actor)
    .fetch_all(conn)
    .await
}

/// Whose roles these are: (member or key, role).
pub async fn of_actors(conn: &mut PgConnection, actors: &[String]) -> sqlx::Result<Vec<(String, String)>> {
    sqlx::query_as(
        "SELECT user_id, role_id FROM member_roles WHERE user_id = ANY ($1) \
         UNION ALL SELECT key_id, role_id FROM key_roles WHERE key_id = ANY ($1) ORDER BY 1, 2",
    )
    .bind(actors)
    .fetch_all(conn)
    .await
}

/// Brings what `control` knows of these up to date. Gateways hear of it with the commit.
async fn copy(conn: &mut PgConnection, members: &[String], keys: &[String]) -> sqlx::Result<()> {
    sqlx::query(
        "SELECT control.member_grants(m, ARRAY(SELECT DISTINCT p FROM member_roles mr JOIN roles r ON r.id = mr.role_id, \
            unnest(r.permissions) AS p WHERE mr.user_id = m ORDER BY p)) FROM unnest($1::text[]) AS m",
    )
    .bind(members)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "SELECT control.key_grants(k, ARRAY(SELECT DISTINCT p FROM key_roles kr JOIN roles r ON r.id = kr.role_id, \
            unnest(r.permissions) AS p WHERE kr.key_id = k ORDER BY p)) FROM unnest($1::text[]) AS k",
    )
    .bind(keys)
    .execute(conn)
    .await?;
    Ok(())
}

//! An organization is put back from a backup while it lives: its data (name, settings, secrets) is of then, who may enter is of
//! now: people, roles, keys, invitations, domains, grants, and what was exported since. A key that was revoked or rotated
//! stays so, who was removed stays away, and who owns it owns it.

use sqlx::{AssertSqlSafe, PgConnection};

/// The tables that say who may enter, each after those that it refers to.
const OWN: [&str; 12] = [
    "roles",
    "members",
    "member_roles",
    "keys",
    "key_roles",
    "invitations",
    "ownership_offer",
    "departures",
    "domains",
    "support_grants",
    "exports",
    "export_parts",
];

/// What `control` keeps of them.
const SHARED: [&str; 6] =
    ["memberships", "credentials", "invitation_tokens", "domains", "support_grants", "export_pointers"];

/// Copies them into temporary tables.
pub async fn note(conn: &mut PgConnection, org: &str) -> sqlx::Result<()> {
    for table in OWN {
        let sql = format!("CREATE TEMPORARY TABLE living_{table} ON COMMIT DROP AS SELECT * FROM {table}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await?;
    }
    for table in SHARED {
        let sql = format!(
            "CREATE TEMPORARY TABLE living_control_{table} ON COMMIT DROP AS SELECT * FROM control.{table} WITH NO DATA"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await?;
        let sql = format!(
            "INSERT INTO pg_temp.living_control_{table} SELECT * FROM control.{table} WHERE org_id = $1"
        );
        sqlx::query(AssertSqlSafe(sql)).bind(org).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Puts them where the backup's were put.
pub async fn keep(conn: &mut PgConnection, org: &str) -> sqlx::Result<()> {
    for table in OWN.iter().rev() {
        sqlx::raw_sql(AssertSqlSafe(format!("DELETE FROM {table}"))).execute(&mut *conn).await?;
    }
    for table in OWN {
        let sql = format!("INSERT INTO {table} SELECT * FROM pg_temp.living_{table}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await?;
    }
    for table in SHARED {
        let sql = format!("DELETE FROM control.{table} WHERE org_id = $1");
        sqlx::query(AssertSqlSafe(sql)).bind(org).execute(&mut *conn).await?;
        let sql = format!("INSERT INTO control.{table} SELECT * FROM pg_temp.living_control_{table}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Who has deleted their account since is not put back. While the original lives, who has left it is not in its copy, and everybody
/// else has the role there that they have by now. Keys and
/// invitations of a copy end that are the original's still: they would open nothing. `from` and `to` are the same where an
/// organization gets its own rows back.
pub async fn leave_behind(conn: &mut PgConnection, from: &str, to: &str) -> sqlx::Result<()> {
    sqlx::query(
        "CREATE TEMPORARY TABLE gone ON COMMIT DROP AS SELECT user_id FROM members m \
         WHERE EXISTS (SELECT FROM control.users u WHERE u.id = m.user_id AND u.deleted_at IS NOT NULL) \
            OR (EXISTS (SELECT FROM control.memberships WHERE org_id = $1) \
                AND NOT EXISTS (SELECT FROM control.memberships o WHERE o.org_id = $1 AND o.user_id = m.user_id))",
    )
    .bind(from)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "WITH now AS (UPDATE members m SET role = o.role FROM control.memberships o \
                      WHERE o.org_id = $1 AND o.user_id = m.user_id AND o.role <> m.role RETURNING m.user_id, m.role) \
         UPDATE control.memberships c SET role = now.role FROM now WHERE c.org_id = $2 AND c.user_id = now.user_id",
    )
    .bind(from)
    .bind(to)
    .execute(&mut *conn)
    .await?;
    for sql in [
        "DELETE FROM ownership_offer WHERE from_user NOT IN (SELECT user_id FROM members WHERE role = 'owner')",
        "DELETE FROM ownership_offer WHERE from_user IN (SELECT user_id FROM pg_temp.gone)",
        "DELETE FROM members WHERE user_id IN (SELECT user_id FROM pg_temp.gone)",
        "UPDATE invitations SET email = accepted_by || '@left.invalid' \
         WHERE accepted_by IN (SELECT user_id FROM pg_temp.gone) \
            OR accepted_by IN (SELECT id FROM control.users WHERE deleted_at IS NOT NULL)",
    ] {
        sqlx::raw_sql(sql).execute(&mut *conn).await?;
    }
    for sql in [
        "DELETE FROM control.memberships WHERE org_id = $1 AND user_id IN (SELECT user_id FROM pg_temp.gone)",
        "UPDATE keys SET revoked_at = now() WHERE revoked_at IS NULL \
            AND id NOT IN (SELECT key_id FROM control.credentials WHERE org_id = $1)",
        "UPDATE invitations SET state = 'revoked' WHERE state = 'pending' \
            AND token_sha256 NOT IN (SELECT sha256 FROM control.invitation_tokens WHERE org_id = $1)",
    ] {
        sqlx::query(sql).bind(to).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Whether somebody owns it.
pub async fn is_owned(conn: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM members WHERE role = 'owner')").fetch_one(conn).await
}

/// Which master key wraps its data keys.
pub async fn note_master(conn: &mut PgConnection, org: &str, master: &str) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO control.data_keys (org_id, master) VALUES ($1, $2) \
         ON CONFLICT (org_id) DO UPDATE SET master = excluded.master",
    )
    .bind(org)
    .bind(master)
    .execute(conn)
    .await?;
    Ok(())
}

/// A domain that is another organization's now, or nobody's, is to be shown anew.
pub async fn unverify_lost_domains(conn: &mut PgConnection, org: &str) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE domains SET verified_at = NULL, joining = 'manual', token = md5(gen_random_uuid()::text) \
         WHERE verified_at IS NOT NULL AND name NOT IN (SELECT name FROM control.domains WHERE org_id = $1)",
    )
    .bind(org)
    .execute(conn)
    .await?;
    Ok(())
}

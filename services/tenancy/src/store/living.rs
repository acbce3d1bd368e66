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

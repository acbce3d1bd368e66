//! What an organization that lives keeps of now when older rows replace its own.

use nitejar_common::error::{Error, Result};
use nitejar_common::id::OrgId;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::Adopt;
use crate::names::Names;
use crate::{Db, errors};

impl Db {
    /// Notes what an organization that lives here must keep when older rows replace its own. Whether one does.
    pub(super) async fn note_living(
        &self,
        conn: &mut PgConnection,
        org: &OrgId,
        adopt: &dyn Adopt,
    ) -> Result<bool> {
        let living: Option<(i64, i32)> = sqlx::query_as(
            "SELECT number, schema_version FROM control.tenants WHERE org_id = $1 AND state IN ('active', 'suspended') \
             FOR UPDATE",
        )
        .bind(org.as_str())
        .fetch_optional(&mut *conn)
        .await
        .map_err(errors::from_sqlx)?;
        let Some((number, version)) = living else { return Ok(false) };
        if version != self.0.schema.tenant_version() {
            return Err(Error::unavailable().because("its tables are not migrated yet"));
        }
        run(conn, "SET LOCAL lock_timeout = '5s'").await?;
        self.lock_tables(conn, number).await?;
        see(conn, number).await?;
        run(conn, "CREATE TEMPORARY TABLE living_outbox ON COMMIT DROP AS SELECT * FROM outbox").await?;
        adopt.note(conn, org).await?;
        run(conn, "RESET search_path").await?;
        Ok(true)
    }
}

/// What is on its way is of now: what was on its way then has arrived since, and the newest events must not be lost.
pub(super) async fn keep_outbox(conn: &mut PgConnection, number: i64) -> Result<()> {
    run(conn, "DELETE FROM outbox").await?;
    run(conn, "INSERT INTO outbox OVERRIDING SYSTEM VALUE SELECT * FROM pg_temp.living_outbox").await?;
    run(conn, "SELECT setval(pg_get_serial_sequence('outbox', 'seq'), coalesce(max(seq), 0) + 1, false) FROM outbox")
        .await?;
    sqlx::query(
        "INSERT INTO control.outbox_due (tenant_number, due_at) SELECT $1, now() WHERE EXISTS (SELECT FROM outbox)",
    )
    .bind(number)
    .execute(conn)
    .await
    .map_err(errors::from_sqlx)?;
    Ok(())
}

pub(super) async fn run(conn: &mut PgConnection, sql: &'static str) -> Result<()> {
    sqlx::raw_sql(sql).execute(conn).await.map_err(errors::from_sqlx)?;
    Ok(())
}

/// The connection sees a tenant's tables, until the transaction ends.
pub(super) async fn see(conn: &mut PgConnection, number: i64) -> Result<()> {
    let path = format!("SET LOCAL search_path = {}", Names::schema(number));
    sqlx::raw_sql(AssertSqlSafe(path)).execute(conn).await.map_err(errors::from_sqlx)?;
    Ok(())
}

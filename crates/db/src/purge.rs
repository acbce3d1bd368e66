//! Deleting everything of an organization here, for ever.
//!
//! One transaction counts the rows, drops the schema and the role, deletes the rows in `control`, and writes down what it
//! was. So a kill at any line leaves all or nothing, and whoever asks again gets the same answer.

use chrono::{DateTime, Utc};
use nitejar_common::error::{Error, Result};
use nitejar_common::id::OrgId;
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::life::Parting;
use crate::migrate::SHARED;
use crate::names::Names;
use crate::{Db, Owner, errors};

/// What was deleted of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgedTable {
    /// `jobs`, or `control.job_pointers` where it is shared between organizations.
    pub name: String,
    /// Rows.
    pub rows: i64,
}

impl Db {
    /// Deletes everything of an organization here. Unavailable while its outbox holds messages that are still to be
    /// delivered: an audit event must not be lost, nor an external effect.
    pub async fn purge(&self, org: &OrgId, parting: &dyn Parting) -> Result<Vec<PurgedTable>> {
        // Nobody moves it between the look at what it has elsewhere and its end.
        let _lock = self.stay(org).await?;
        parting.part(org).await?;
        let db = self.home_of(org).await?;
        let purged = if db.is(self) {
            db.purge_here(org, &[]).await?
        } else {
            // What the first database alone keeps goes for good after the receipt tells of it: killed in between, the next
            // time.
            let mut first = self.0.admin.begin().await.map_err(errors::from_sqlx)?;
            let kept = self.delete_kept(&mut first, org).await?;
            let purged = db.purge_here(org, &kept).await?;
            first.commit().await.map_err(errors::from_sqlx)?;
            purged
        };
        self.0.directory.forget(org);
        Ok(purged)
    }

    /// What this database keeps of an organization whose tables are in another one.
    async fn delete_kept(&self, conn: &mut PgConnection, org: &OrgId) -> Result<Vec<PurgedTable>> {
        let mut kept = Vec::new();
        for shared in self.0.schema.shared.iter().filter(|shared| shared.owner == Owner::Org) {
            let sql = format!("DELETE FROM control.{} WHERE org_id = $1", shared.table);
            let done = sqlx::query(AssertSqlSafe(sql)).bind(org.as_str()).execute(&mut *conn).await;
            let rows = i64::try_from(done.map_err(errors::from_sqlx)?.rows_affected()).unwrap_or(i64::MAX);
            kept.push(PurgedTable { name: format!("control.{}", shared.table), rows });
        }
        Ok(kept)
    }

    async fn purge_here(&self, org: &OrgId, kept: &[PurgedTable]) -> Result<Vec<PurgedTable>> {
        let mut tx = self.0.admin.begin().await.map_err(errors::from_sqlx)?;
        let found: Option<(i64, Option<Json<Vec<PurgedTable>>>)> =
            sqlx::query_as("SELECT number, purged FROM control.tenants WHERE org_id = $1 FOR UPDATE")
                .bind(org.as_str())
                .fetch_optional(&mut *tx)
                .await
                .map_err(errors::from_sqlx)?;
        let Some((number, purged)) = found else { return Ok(Vec::new()) };
        if let Some(Json(purged)) = purged {
            return Ok(purged);
        }
        let tables = self.count(&mut tx, number).await?;
        let mut purged = self.delete_all(&mut tx, org, number, tables).await?;
        for table in &mut purged {
            table.rows += kept.iter().filter(|k| k.name == table.name).map(|k| k.rows).sum::<i64>();
        }
        note(&mut tx, number, &purged, self.0.clock.now()).await?;
        tx.commit().await.map_err(errors::from_sqlx)?;
        Ok(purged)
    }

    /// The rows of each table, which nobody writes to any more until this transaction ends.
    async fn count(&self, conn: &mut PgConnection, number: i64) -> Result<Vec<PurgedTable>> {
        let schema = Names::schema(number);
        // Whoever still writes makes us come again, and nobody queues behind us for long.
        sqlx::raw_sql("SET LOCAL lock_timeout = '2s'")
            .execute(&mut *conn)
            .await
            .map_err(errors::from_sqlx)?;
        let names = self.lock_tables(conn, number).await?;
        let waiting: bool = sqlx::query_scalar(AssertSqlSafe(format!(
            "SELECT EXISTS (SELECT FROM {schema}.outbox WHERE dead_at IS NULL)"
        )))
        .fetch_one(&mut *conn)
        .await
        .map_err(errors::from_sqlx)?;
        if waiting {
            return Err(Error::unavailable().because("its outbox is not empty yet"));
        }
        let mut tables = Vec::with_capacity(names.len());
        for name in names {
            let rows = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {schema}.{name}")))
                .fetch_one(&mut *conn)
                .await
                .map_err(errors::from_sqlx)?;
            tables.push(PurgedTable { name, rows });
        }
        Ok(tables)
    }

    async fn delete_all(
        &self,
        conn: &mut PgConnection,
        org: &OrgId,
        number: i64,
        mut tables: Vec<PurgedTable>,
    ) -> Result<Vec<PurgedTable>> {
        tables.extend(self.drop_tenant(conn, org, number).await?);
        Ok(tables)
    }

    /// Schema, role and rows in `control`; answers how many of the last. The directory's row stays.
    pub(crate) async fn drop_tenant(
        &self,
        conn: &mut PgConnection,
        org: &OrgId,
        number: i64,
    ) -> Result<Vec<PurgedTable>> {
        let mut tables = Vec::new();
        let (schema, role) = (Names::schema(number), self.0.names.role(number));
        // Roles are the cluster's: a clone of this database may use this one, too. Then it stays, and opens nothing here.
        let sql = format!(
            "DROP SCHEMA {schema} CASCADE; \
             DO $do$ BEGIN DROP ROLE \"{role}\"; EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END $do$"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await.map_err(errors::from_sqlx)?;
        for shared in SHARED.iter().chain(self.0.schema.shared) {
            let (table, column) = (shared.table, shared.owner.column());
            // Both columns of the directory's row: one of them is this table's.
            let sql = format!(
                "DELETE FROM control.{table} USING control.tenants t \
                 WHERE t.number = $1 AND t.org_id = $2 AND {table}.{column} = t.{directory}",
                directory = if column == "org_id" { "org_id" } else { "number" },
            );
            let done = sqlx::query(AssertSqlSafe(sql))
                .bind(number)
                .bind(org.as_str())
                .execute(&mut *conn)
                .await
                .map_err(errors::from_sqlx)?;
            let rows = i64::try_from(done.rows_affected()).unwrap_or(i64::MAX);
            tables.push(PurgedTable { name: format!("control.{table}"), rows });
        }
        Ok(tables)
    }
}

async fn note(conn: &mut PgConnection, number: i64, purged: &[PurgedTable], at: DateTime<Utc>) -> Result<()> {
    sqlx::query("UPDATE control.tenants SET state = 'purged', purged = $2, purged_at = $3 WHERE number = $1")
        .bind(number)
        .bind(Json(purged))
        .bind(at)
        .execute(conn)
        .await
        .map_err(errors::from_sqlx)?;
    Ok(())
}

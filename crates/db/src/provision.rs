//! Spare schemas, and claiming one for an organization.
//!
//! Building a schema costs tens of milliseconds of DDL; claiming a finished one is one row. So spares are built in the
//! background, and creating an organization only claims.

use std::time::Duration;

use nitejar_common::error::{Error, Result};
use nitejar_common::id::OrgId;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::names::Names;
use crate::{Db, bootstrap, errors, migrate, migrator};

impl Db {
    /// Gives an organization a schema here. Repeating it changes nothing; of two at once both get the same one.
    pub async fn provision(&self, org: &OrgId) -> Result<()> {
        self.placed(org).await?.provision_here(org).await
    }

    async fn provision_here(&self, org: &OrgId) -> Result<()> {
        // Enough for a burst of creations that empties the spares between our building one and claiming it.
        for _ in 0..20 {
            if self.claim(org).await?.is_some() {
                return Ok(());
            }
            self.build_spare().await?;
        }
        Err(Error::unavailable().because("no spare schema could be claimed"))
    }

    async fn claim(&self, org: &OrgId) -> Result<Option<i64>> {
        let sql = "WITH had AS (SELECT number FROM control.tenants WHERE org_id = $1), \
             spare AS (SELECT number FROM control.tenants WHERE state = 'spare' AND schema_version = $2 \
                       AND NOT EXISTS (SELECT FROM had) ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED), \
             claimed AS (UPDATE control.tenants t SET org_id = $1, state = 'active', claimed_at = $3 \
                         FROM spare WHERE t.number = spare.number RETURNING t.number) \
             SELECT number FROM had UNION ALL SELECT number FROM claimed";
        let claimed = sqlx::query_scalar(sql)
            .bind(org.as_str())
            .bind(self.0.schema.tenant_version())
            .bind(self.0.clock.now())
            .fetch_optional(&self.0.control)
            .await;
        match claimed {
            // Somebody else claimed for the same organization at the same time: theirs is ours.
            Err(error) if errors::is_unique_violation(&error, "tenants_org_id_key") => {
                sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
                    .bind(org.as_str())
                    .fetch_optional(&self.0.control)
                    .await
                    .map_err(errors::from_sqlx)
            }
            other => other.map_err(errors::from_sqlx),
        }
    }

    /// Builds one spare. Killed in between, its row stays `building` and is swept later; no half schema is ever seen.
    pub async fn build_spare(&self) -> Result<i64> {
        let number: i64 =
            sqlx::query_scalar("INSERT INTO control.tenants (state) VALUES ('building') RETURNING number")
                .fetch_one(&self.0.admin)
                .await
                .map_err(errors::from_sqlx)?;
        let mut tx = self.0.admin.begin().await.map_err(errors::from_sqlx)?;
        self.create_schema(&mut tx, number).await?;
        migrate::apply_tenant(&mut tx, &self.0.names, &self.0.schema, number, None, i32::MAX).await?;
        sqlx::query("UPDATE control.tenants SET state = 'spare', schema_version = $2 WHERE number = $1")
            .bind(number)
            .bind(self.0.schema.tenant_version())
            .execute(&mut *tx)
            .await?;
        tx.commit().await.map_err(errors::from_sqlx)?;
        Ok(number)
    }

    /// A tenant's empty schema and its role. The connection is in a transaction.
    pub(crate) async fn create_schema(&self, conn: &mut PgConnection, number: i64) -> Result<()> {
        let names = &self.0.names;
        let (schema, role, bucket) =
            (Names::schema(number), names.role(number), names.bucket(names.bucket_of(number)));
        let sql = format!(
            "{create} GRANT \"{role}\" TO \"{bucket}\"; CREATE SCHEMA {schema}; \
             GRANT USAGE ON SCHEMA {schema} TO \"{role}\"; GRANT \"{all}\" TO \"{role}\";",
            create = bootstrap::create_role(&role),
            all = names.all_tenants()
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.map_err(errors::from_sqlx)?;
        Ok(())
    }

    /// Builds spares up to the configured number; answers how many were built.
    pub async fn refill_spares(&self) -> Result<u32> {
        self.refill_below(self.0.config.spares).await
    }

    /// Builds spares up to the configured number once there are fewer than `low`: DDL comes in batches, not beside each
    /// creation.
    async fn refill_below(&self, low: u32) -> Result<u32> {
        let mut built = 0;
        loop {
            let have: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM control.tenants WHERE state = 'spare' AND schema_version = $1",
            )
            .bind(self.0.schema.tenant_version())
            .fetch_one(&self.0.control)
            .await
            .map_err(errors::from_sqlx)?;
            let enough = if built == 0 { low } else { self.0.config.spares };
            if have >= i64::from(enough) {
                return Ok(built);
            }
            self.build_spare().await?;
            built += 1;
        }
    }

    /// Keeps spares ready, tenants migrated and idle connections closed, and moves that were killed at an end, in every
    /// database, until told to stop.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        let each = self.parts().map(|db| db.run_here(stop.clone()));
        futures_util::future::try_join_all(each).await.map(drop)
    }

    async fn run_here(&self, stop: CancellationToken) -> Result<()> {
        let mut turn = 0u32;
        loop {
            let work = async {
                if turn.is_multiple_of(10) {
                    self.settle_moves().await?;
                }
                self.refill_below(self.0.config.spares.div_ceil(2)).await?;
                self.0.buckets.iter().for_each(|b| b.close_idle());
                if turn.is_multiple_of(60) {
                    self.forget_answers().await?;
                    migrator::in_background(self).await?;
                    // A builder that was killed left these; their schemas were rolled back with it.
                    sqlx::query(
                        "DELETE FROM control.tenants WHERE state = 'building' AND created_at < now() - interval '10 min'",
                    )
                    .execute(&self.0.admin)
                    .await
                    .map_err(errors::from_sqlx)?;
                }
                Ok::<(), Error>(())
            };
            if let Err(error) = work.await {
                // Two databases of one cluster that grant at the same time get "tuple concurrently updated": next turn.
                tracing::warn!(error = %error.log_text(), "spares could not be refilled; trying again");
            }
            turn = turn.wrapping_add(1);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
    }
}

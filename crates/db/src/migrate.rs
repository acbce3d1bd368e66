//! Migrations: `control` under one lock, tenants one transaction each with a version of their own, so that a run that
//! was killed, or gave up on a busy tenant, goes on where it stopped.

use std::time::Duration;

use nitejar_common::error::{Error, Result};
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::bootstrap::LOCK;
use crate::config::MigrateMode;
use crate::names::Names;
use crate::{Db, errors};

/// One migration. Never changed once released: a new one is added.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// From 1, without holes.
    pub version: i32,
    /// For people.
    pub name: &'static str,
    /// The statements. `{control}`, and for tenants `{role}`, stand for role names.
    pub sql: &'static str,
}

/// What a service keeps.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// The service's name.
    pub service: &'static str,
    /// Migrations of `control`.
    pub control: &'static [Migration],
    /// Migrations of each tenant's schema.
    pub tenant: &'static [Migration],
}

impl Schema {
    /// The version that a tenant's schema must have.
    pub fn tenant_version(&self) -> i32 {
        self.tenant.last().map_or(0, |m| m.version)
    }

    /// Changes whenever a migration does: names a test template.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for m in BASE.iter().chain(self.control).chain(self.tenant) {
            hash.update(m.sql);
        }
        hash.update(BASE_TENANT);
        hex::encode(&hash.finalize()[..6])
    }
}

const BASE: &[Migration] = &[
    Migration { version: 1, name: "base", sql: include_str!("../migrations/control.sql") },
    Migration { version: 2, name: "answers", sql: include_str!("../migrations/answers.sql") },
];
const BASE_TENANT: &str = include_str!("../migrations/tenant.sql");
const WORKERS: usize = 4;

/// Brings `control` up to date, or names what is pending.
pub(crate) async fn control(admin: &PgPool, names: &Names, schema: &Schema, mode: MigrateMode) -> Result<()> {
    let mut tx = admin.begin().await.map_err(errors::from_sqlx)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await?;
    for (source, list) in [("base", BASE), (schema.service, schema.control)] {
        for m in list {
            let checksum = hex::encode(Sha256::digest(m.sql));
            let found: Option<String> = sqlx::query_scalar(
                "SELECT checksum FROM control.migrations WHERE source = $1 AND version = $2",
            )
            .bind(source)
            .bind(m.version)
            .fetch_optional(&mut *tx)
            .await?;
            match found {
                Some(applied) if applied == checksum => continue,
                Some(_) => {
                    return Err(Error::internal(format!(
                        "migration {source} {} {} was changed after it was applied: add a new one instead",
                        m.version, m.name
                    )));
                }
                None if mode == MigrateMode::RefusePending => {
                    return Err(Error::internal(format!(
                        "migration {source} {} {} is pending and database.migrate is refuse_pending",
                        m.version, m.name
                    )));
                }
                None => {}
            }
            let sql = m.sql.replace("{control}", &format!("\"{}\"", names.control()));
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await.map_err(errors::from_sqlx)?;
            sqlx::query(
                "INSERT INTO control.migrations (source, version, name, checksum) VALUES ($1, $2, $3, $4)",
            )
            .bind(source)
            .bind(m.version)
            .bind(m.name)
            .bind(&checksum)
            .execute(&mut *tx)
            .await?;
            tracing::info!(source, version = m.version, name = m.name, "control migration applied");
        }
    }
    tx.commit().await.map_err(errors::from_sqlx)
}

/// Applies the tenant migrations after `from` to a schema. The connection is in a transaction.
pub(crate) async fn apply_tenant(
    conn: &mut PgConnection,
    names: &Names,
    schema: &Schema,
    number: i64,
    from: Option<i32>,
) -> Result<()> {
    let role = format!("\"{}\"", names.role(number));
    let mut sql = format!("SET LOCAL search_path = {};", Names::schema(number));
    if from.is_none() {
        sql.push_str(&BASE_TENANT.replace("{role}", &role));
    }
    for m in schema.tenant.iter().filter(|m| m.version > from.unwrap_or(0)) {
        sql.push_str(&m.sql.replace("{role}", &role));
    }
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.map_err(errors::from_sqlx)?;
    Ok(())
}

/// Brings every tenant up to date, or says how many are pending. A tenant that is busy is left for the background loop.
pub(crate) async fn tenants(db: &Db) -> Result<()> {
    let pending = pending(db).await?;
    if pending == 0 {
        return Ok(());
    }
    if db.0.config.migrate == MigrateMode::RefusePending {
        return Err(Error::internal(format!(
            "{pending} tenants are below version {} and database.migrate is refuse_pending",
            db.0.schema.tenant_version()
        )));
    }
    let migrated = migrate_laggards(db).await?;
    tracing::info!(service = db.0.schema.service, migrated, of = pending, "tenant migrations");
    Ok(())
}

async fn pending(db: &Db) -> Result<i64> {
    sqlx::query_scalar(
        "SELECT count(*) FROM control.tenants WHERE state <> 'building' AND schema_version < $1",
    )
    .bind(db.0.schema.tenant_version())
    .fetch_one(&db.0.admin)
    .await
    .map_err(errors::from_sqlx)
}

/// Migrates all that are behind and free; answers how many.
pub(crate) async fn migrate_laggards(db: &Db) -> Result<u64> {
    let workers = (0..WORKERS).map(|_| async {
        let mut done = 0;
        // A busy tenant is skipped for this run; `after` moves past it.
        let mut after = 0;
        while let Some((number, migrated)) = migrate_next(db, after).await? {
            after = number;
            done += u64::from(migrated);
        }
        Ok::<u64, Error>(done)
    });
    Ok(futures_util::future::join_all(workers)
        .await
        .into_iter()
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .sum())
}

async fn migrate_next(db: &Db, after: i64) -> Result<Option<(i64, bool)>> {
    let version = db.0.schema.tenant_version();
    let mut tx = db.0.admin.begin().await.map_err(errors::from_sqlx)?;
    let next: Option<(i64, i32)> = sqlx::query_as(
        "SELECT number, schema_version FROM control.tenants WHERE state <> 'building' AND schema_version < $1 \
         AND number > $2 ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    .bind(version)
    .bind(after)
    .fetch_optional(&mut *tx)
    .await?;
    let Some((number, from)) = next else { return Ok(None) };
    // Behind a long reader the DDL gives up quickly, so that nobody queues behind it.
    let budget = format!("SET LOCAL lock_timeout = '{}ms'", Duration::from_millis(250).as_millis());
    sqlx::raw_sql(AssertSqlSafe(budget)).execute(&mut *tx).await?;
    if let Err(error) = apply_tenant(&mut tx, &db.0.names, &db.0.schema, number, Some(from)).await {
        if error.code() == nitejar_common::Code::Aborted {
            tracing::warn!(number, "tenant is busy; its migration waits");
            return Ok(Some((number, false)));
        }
        return Err(error);
    }
    sqlx::query("UPDATE control.tenants SET schema_version = $2 WHERE number = $1")
        .bind(number)
        .bind(version)
        .execute(&mut *tx)
        .await?;
    tx.commit().await.map_err(errors::from_sqlx)?;
    Ok(Some((number, true)))
}

//! Migrations: `control` under one lock; a tenant's in the transaction of whoever builds or migrates it.

use nitejar_common::error::{Error, Result};
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use crate::bootstrap::LOCK;
use crate::config::MigrateMode;
use crate::errors;
use crate::names::Names;

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
    /// Where `control` keeps rows of single tenants.
    pub shared: &'static [SharedTable],
    /// Columns of tenants' tables that are bound to their organization or are secrets' hashes: they are in a backup, in
    /// nothing that is given to anybody, and in no digest by which two organizations are compared.
    pub private: &'static [(&'static str, &'static str)],
}

/// A table of `control` with rows that belong to single tenants: they go with them.
#[derive(Clone, Copy, Debug)]
pub struct SharedTable {
    /// Its name, without `control`.
    pub table: &'static str,
    /// The column that says whose a row is.
    pub owner: Owner,
}

/// How a row of `control` says whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// By the tenant's number, in `tenant_number`.
    Number,
    /// By the organization's id, in `org_id`.
    Org,
}

impl Owner {
    /// The column.
    pub fn column(self) -> &'static str {
        match self {
            Self::Number => "tenant_number",
            Self::Org => "org_id",
        }
    }
}

/// Those that every service has.
pub(crate) const SHARED: &[SharedTable] = &[SharedTable { table: "outbox_due", owner: Owner::Number }];

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
    Migration { version: 3, name: "life", sql: include_str!("../migrations/life.sql") },
    Migration { version: 4, name: "placement", sql: include_str!("../migrations/placement.sql") },
];
const BASE_TENANT: &str = include_str!("../migrations/tenant.sql");

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

/// Applies the tenant migrations after `from`, up to `to`, to a schema. The connection is in a transaction.
pub(crate) async fn apply_tenant(
    conn: &mut PgConnection,
    names: &Names,
    schema: &Schema,
    number: i64,
    from: Option<i32>,
    to: i32,
) -> Result<()> {
    let role = format!("\"{}\"", names.role(number));
    let mut sql = format!("SET LOCAL search_path = {};", Names::schema(number));
    if from.is_none() {
        sql.push_str(&BASE_TENANT.replace("{role}", &role));
    }
    for m in schema.tenant.iter().filter(|m| m.version > from.unwrap_or(0) && m.version <= to) {
        sql.push_str(&m.sql.replace("{role}", &role));
    }
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.map_err(errors::from_sqlx)?;
    Ok(())
}

//! Brings every tenant to the newest version: a few canaries first, one after the other, then four at a time, one
//! transaction each. Killed or given up anywhere, each tenant is at its old version or at the new one, and the next run goes
//! on with those that are left. A tenant that somebody reads for long is left for later: its DDL waits a quarter of a second,
//! so that nobody queues behind it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nitejar_common::error::{Code, Error, Result};
use nitejar_common::id::OrgId;
use sqlx::{AssertSqlSafe, PgPool};

use crate::config::MigrateMode;
use crate::{Db, errors, migrate, pool};

/// More at a time are no faster on the machines we measured.
const WORKERS: u32 = 4;
/// So many times as long as a tenant took, a worker rests: all together take about one core, and readers have the others. Ten
/// thousand tenants still take less than a minute.
const REST: u32 = 3;
/// The first tenants: when a migration fails on one of them, thousands of others are spared.
const CANARIES: i64 = 5;
/// How often a service tells how far it is.
const TELL: Duration = Duration::from_secs(5);
/// How long DDL waits for a lock.
const BUDGET: &str = "250ms";

/// How far a run has got.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Tenants migrated by this run.
    pub done: u64,
    /// Tenants that there were to migrate.
    pub of: u64,
    /// Since when it runs.
    pub took: Duration,
}

impl Progress {
    /// Tenants a second.
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let done = self.done as f64;
        done / self.took.as_secs_f64().max(0.001)
    }

    /// How long it goes on, if nothing changes; none before anything is known.
    pub fn left(&self) -> Option<Duration> {
        let left = u32::try_from(self.of.saturating_sub(self.done)).unwrap_or(u32::MAX);
        let done = u32::try_from(self.done).unwrap_or(u32::MAX);
        (done > 0).then(|| self.took / done * left)
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Tenants that are at the newest version now.
    pub done: u64,
    /// Tenants that were busy, by number: they wait for the next run.
    pub laggards: Vec<i64>,
}

impl Db {
    /// Migrates every tenant that is behind, spares included; `tell` hears how far it is, after each canary and each
    /// second.
    pub async fn migrate_tenants(&self, tell: &(dyn Fn(Progress) + Sync)) -> Result<Migrated> {
        let (began, of) = (Instant::now(), self.behind().await?);
        let count = AtomicU64::new(0);
        let progress = || Progress { done: count.load(Ordering::Relaxed), of, took: began.elapsed() };
        let mut all = Migrated::default();
        let mut after = 0;
        for _ in 0..CANARIES {
            let Some((number, migrated)) = self.migrate_next(&self.0.admin, after, None).await? else {
                break;
            };
            after = number;
            note(&mut all, number, migrated, &count);
            tell(progress());
        }
        // Connections of its own, so that spares are built and purges go on meanwhile.
        let pool = pool::small(self.0.options.clone(), WORKERS);
        let work =
            futures_util::future::join_all((0..WORKERS).map(|_| self.migrate_after(&pool, after, &count)));
        let ticker = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                tell(progress());
            }
        };
        let results = tokio::select! {
            results = work => results,
            () = ticker => Vec::new(),
        };
        for result in results {
            let part = result?;
            all.done += part.done;
            all.laggards.extend(part.laggards);
        }
        // Each worker passes those that were busy.
        all.laggards.sort_unstable();
        all.laggards.dedup();
        tell(progress());
        Ok(all)
    }

    /// Migrates one organization before all others, in whichever database it is; false when it is busy.
    pub async fn migrate_one(&self, org: &OrgId) -> Result<bool> {
        let db = self.home_of(org).await?;
        Ok(db.migrate_next(&db.0.admin, 0, Some(org)).await?.is_none_or(|(_, migrated)| migrated))
    }

    async fn behind(&self) -> Result<u64> {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM control.tenants WHERE state NOT IN ('building', 'moved', 'purged') AND schema_version < $1",
        )
        .bind(self.0.schema.tenant_version())
        .fetch_one(&self.0.admin)
        .await
        .map_err(errors::from_sqlx)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    async fn migrate_after(&self, pool: &PgPool, mut after: i64, count: &AtomicU64) -> Result<Migrated> {
        let mut part = Migrated::default();
        let mut began = Instant::now();
        while let Some((number, migrated)) = self.migrate_next(pool, after, None).await? {
            after = number;
            note(&mut part, number, migrated, count);
            tokio::time::sleep(began.elapsed() * REST).await;
            began = Instant::now();
        }
        Ok(part)
    }

    /// The next tenant after that number which is behind and which nobody else migrates: its number, and whether it is
    /// migrated or was busy.
    async fn migrate_next(
        &self,
        pool: &PgPool,
        after: i64,
        only: Option<&OrgId>,
    ) -> Result<Option<(i64, bool)>> {
        let version = self.0.schema.tenant_version();
        let mut tx = pool.begin().await.map_err(errors::from_sqlx)?;
        let next: Option<(i64, i32)> = sqlx::query_as(
            "SELECT number, schema_version FROM control.tenants \
             WHERE state NOT IN ('building', 'moved', 'purged') AND schema_version < $1 AND number > $2 \
             AND ($3::text IS NULL OR org_id = $3) ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED",
        )
        .bind(version)
        .bind(after)
        .bind(only.map(OrgId::as_str))
        .fetch_optional(&mut *tx)
        .await?;
        let Some((number, from)) = next else { return Ok(None) };
        let budget = format!("SET LOCAL lock_timeout = '{BUDGET}'");
        sqlx::raw_sql(AssertSqlSafe(budget)).execute(&mut *tx).await?;
        let applied =
            migrate::apply_tenant(&mut tx, &self.0.names, &self.0.schema, number, Some(from), i32::MAX).await;
        if let Err(error) = applied {
            if error.code() == Code::Aborted {
                return Ok(Some((number, false)));
            }
            tracing::error!(number, error = %error.log_text(), "a tenant can't be migrated: nothing more is");
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
}

fn note(part: &mut Migrated, number: i64, migrated: bool, count: &AtomicU64) {
    if migrated {
        part.done += 1;
        count.fetch_add(1, Ordering::Relaxed);
    } else {
        part.laggards.push(number);
    }
}

/// What a service does at its start: migrates, or names what is pending.
pub(crate) async fn at_start(db: &Db) -> Result<()> {
    let pending = db.behind().await?;
    if pending == 0 {
        return Ok(());
    }
    match db.0.config.migrate {
        MigrateMode::OnStart => in_background(db).await,
        MigrateMode::Later => Ok(()),
        MigrateMode::RefusePending => Err(Error::internal(format!(
            "{pending} tenants are below version {} and database.migrate is refuse_pending",
            db.0.schema.tenant_version()
        ))),
    }
}

/// The same for those that were busy, later.
pub(crate) async fn in_background(db: &Db) -> Result<()> {
    let service = db.0.schema.service;
    let told = std::sync::Mutex::new(Instant::now());
    let tell = |p: Progress| {
        let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if told.elapsed() >= TELL {
            *told = Instant::now();
            let left = p.left().map_or(0, |left| left.as_secs());
            tracing::info!(
                service,
                done = p.done,
                of = p.of,
                a_second = p.rate(),
                left_seconds = left,
                "migrating tenants"
            );
        }
    };
    let migrated = db.migrate_tenants(&tell).await?;
    if migrated.done > 0 {
        tracing::info!(service, done = migrated.done, "tenants are migrated");
    }
    if !migrated.laggards.is_empty() {
        tracing::warn!(service, laggards = ?migrated.laggards, "tenants were busy; their migration waits");
    }
    Ok(())
}

//! What binding a transaction to its tenant costs: `TenantTx` beside the same statements with schema-qualified names, on
//! connections of the owner, as many, in the same order of tenants. Both run in turn, several times; the ratio is that of the
//! medians.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use nitejar_common::{RequestCtx, rng};
use nitejar_db::Db;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Postgres};

/// Workers; each has a bucket, and so a connection, of its own.
pub(super) const WORKERS: usize = 4;
/// Requests that a tenant makes in a row before another one is served: people and programs come in bursts.
pub(super) const RUN: usize = 10;
const SLICE: Duration = Duration::from_secs(1);
const ROUNDS: usize = 9;

/// A statement of a transaction; `{s}` is the schema's prefix where there is no tenant bound.
#[derive(Clone, Copy)]
pub(super) struct Statement {
    pub(super) sql: &'static str,
    /// `$1` is a number from 1 to 1,000.
    pub(super) key: bool,
}

/// Transactions a second, bound and unbound. `after` is asked after each bound slice.
pub(super) async fn compare(
    db: &Db,
    url: &str,
    tenants: &[(RequestCtx, i64)],
    work: &'static [Statement],
    mut after: impl AsyncFnMut() -> Result<()>,
) -> Result<(f64, f64)> {
    let (mut bound, mut unbound) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let b = measure(db, url, tenants, work, true).await?;
        after().await?;
        let u = measure(db, url, tenants, work, false).await?;
        // The first round only warms caches.
        if round > 0 {
            bound.push(b);
            unbound.push(u);
        }
    }
    Ok((median(&mut bound), median(&mut unbound)))
}

pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Transactions a second of all workers together.
async fn measure(
    db: &Db,
    url: &str,
    tenants: &[(RequestCtx, i64)],
    work: &'static [Statement],
    bound: bool,
) -> Result<f64> {
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let mine = |n: i64| n.rem_euclid(WORKERS as i64) == worker as i64;
        let share: Vec<(RequestCtx, i64)> =
            tenants.iter().filter(|(_, n)| tenants.len() < WORKERS || mine(*n)).cloned().collect();
        let (db, url) = (db.clone(), url.to_owned());
        tasks.spawn(async move {
            if bound { run_bound(&db, &share, work).await } else { run_unbound(&url, &share, work).await }
        });
    }
    let mut total = 0;
    while let Some(count) = tasks.join_next().await {
        total += count??;
    }
    Ok(f64::from(total) / SLICE.as_secs_f64())
}

pub(super) fn pick(share: &[(RequestCtx, i64)]) -> &(RequestCtx, i64) {
    &share[usize::try_from(rng::below(share.len() as u64)).unwrap_or(0)]
}

fn named(work: &[Statement], prefix: &str) -> Vec<(String, bool)> {
    work.iter().map(|s| (s.sql.replace("{s}", prefix), s.key)).collect()
}

fn query((sql, key): &(String, bool)) -> Query<'static, Postgres, sqlx::postgres::PgArguments> {
    let query = sqlx::query(AssertSqlSafe(sql.clone()));
    if *key { query.bind(1 + i64::try_from(rng::below(1000)).unwrap_or(0)) } else { query }
}

async fn run_bound(db: &Db, share: &[(RequestCtx, i64)], work: &[Statement]) -> Result<u32> {
    let text = |e: nitejar_common::Error| anyhow!(e.log_text());
    let statements = named(work, "");
    let until = Instant::now() + SLICE;
    let mut count = 0;
    while Instant::now() < until {
        let (ctx, _) = pick(share);
        for _ in 0..RUN {
            let mut tx = db.tenant(ctx).await.map_err(text)?;
            for statement in &statements {
                query(statement).fetch_all(tx.conn()).await?;
            }
            tx.commit().await.map_err(text)?;
            count += 1;
        }
    }
    Ok(count)
}

async fn run_unbound(url: &str, share: &[(RequestCtx, i64)], work: &[Statement]) -> Result<u32> {
    let options: PgConnectOptions = url.parse()?;
    let mut conn = PgConnection::connect_with(&options.statement_cache_capacity(256)).await?;
    let until = Instant::now() + SLICE;
    let mut count = 0;
    while Instant::now() < until {
        let (_, number) = pick(share);
        let statements = named(work, &format!("t_{number}."));
        for _ in 0..RUN {
            conn.execute("BEGIN").await?;
            for statement in &statements {
                query(statement).fetch_all(&mut conn).await?;
            }
            conn.execute("COMMIT").await?;
            count += 1;
        }
    }
    Ok(count)
}

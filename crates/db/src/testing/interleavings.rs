//! Two tenants on the same few connections, in a random order, with everything that can go wrong in between.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use nitejar_common::RequestCtx;
use nitejar_common::clock::{SystemClock, system};
use nitejar_common::id::OrgId;
use sqlx::Executor as _;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::{NOTES, database};
use crate::Db;

const TASKS: u64 = 6;
const STEPS: u64 = 60;

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Steps of all tasks.
    pub steps: u64,
    /// Rows that were written for good.
    pub committed: u64,
    /// Transactions that ended in the middle: forgotten, panicked, cancelled, failed.
    pub broken_off: u64,
    /// How often a tenant looked at its rows.
    pub looked: u64,
}

/// What each tenant has committed for certain, and what it may have.
type Kept = Mutex<(BTreeSet<String>, BTreeSet<String>)>;

fn wrong(error: nitejar_common::Error) -> anyhow::Error {
    anyhow!(error.log_text())
}

/// Fails with what a tenant saw that it must not see, or did not see any more. The same seed picks the same steps.
pub async fn run(seed: u64) -> Result<Outcome> {
    let keep = database(NOTES).await?;
    let mut config = keep.config.clone();
    // Each login has two connections: the tenants meet on them all the time. One login, so that both are on the same ones.
    config.bucket_connections = 2;
    let db = Db::open(&config, NOTES, system()).await.map_err(wrong)?;
    let mut tenants: Vec<RequestCtx> = Vec::new();
    while tenants.len() < 2 {
        let org = OrgId::new(&SystemClock);
        db.provision(&org).await.map_err(wrong)?;
        let ctx = RequestCtx::service("dbtest", &SystemClock).for_tenant(org);
        let number = db.tenant(&ctx).await.map_err(wrong)?.number();
        let first = match tenants.first() {
            Some(first) => db.tenant(first).await.map_err(wrong)?.number(),
            None => number,
        };
        let bucket = |number| db.0.names.bucket_of(number);
        if bucket(first) == bucket(number) {
            tenants.push(ctx);
        }
    }
    let kept: Arc<[Kept; 2]> = Arc::default();
    let tasks = (0..TASKS).map(|task| {
        let one = Task { db: db.clone(), tenants: tenants.clone(), kept: Arc::clone(&kept), task };
        tokio::spawn(one.run(seed ^ (task + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    });
    let mut all = Outcome::default();
    for task in tasks.collect::<Vec<_>>() {
        let one = task.await.context("a task panicked")??;
        all.steps += STEPS;
        all.committed += one.committed;
        all.broken_off += one.broken_off;
        all.looked += one.looked;
    }
    for (who, ctx) in tenants.iter().enumerate() {
        let seen = notes(&db, ctx).await?;
        let committed = kept[who].lock().await.0.clone();
        ensure!(seen == committed, "{who} has {seen:?} and committed {committed:?}");
        let mut tx = db.tenant(ctx).await.map_err(wrong)?;
        let timeout: String = sqlx::query_scalar("SHOW statement_timeout").fetch_one(tx.conn()).await?;
        ensure!(timeout == "30s", "a setting of another transaction's is left: {timeout}");
    }
    db.close().await;
    Ok(all)
}

async fn notes(db: &Db, ctx: &RequestCtx) -> Result<BTreeSet<String>> {
    let mut tx = db.tenant_read(ctx).await.map_err(wrong)?;
    let all: Vec<String> = sqlx::query_scalar("SELECT text FROM notes").fetch_all(tx.conn()).await?;
    ensure!(all.iter().collect::<BTreeSet<_>>().len() == all.len(), "doubled: {all:?}");
    Ok(all.into_iter().collect())
}

struct Task {
    db: Db,
    tenants: Vec<RequestCtx>,
    kept: Arc<[Kept; 2]>,
    task: u64,
}

impl Task {
    async fn run(self, mut state: u64) -> Result<Outcome> {
        let mut pick = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut outcome = Outcome::default();
        for step in 0..STEPS {
            let who = usize::try_from(pick(2))?;
            let (deed, pause) = (pick(7), Duration::from_millis(pick(40)));
            match deed {
                0 => {
                    self.commit(who, format!("{who} {} {step}", self.task)).await?;
                    outcome.committed += 1;
                }
                1..=5 => {
                    self.break_off(who, deed, pause).await?;
                    outcome.broken_off += 1;
                }
                _ => {
                    self.look(who).await?;
                    outcome.looked += 1;
                }
            }
        }
        Ok(outcome)
    }

    async fn commit(&self, who: usize, text: String) -> Result<()> {
        // Two that write at the same time would know of each other's rows: one after the other.
        let mut kept = self.kept[who].lock().await;
        kept.1.insert(text.clone());
        let mut tx = self.db.tenant(&self.tenants[who]).await.map_err(wrong)?;
        sqlx::query("INSERT INTO notes VALUES ($1)").bind(&text).execute(tx.conn()).await?;
        tx.commit().await.map_err(wrong)?;
        kept.0.insert(text);
        Ok(())
    }

    /// Nothing of it may be seen by anybody, ever.
    async fn break_off(&self, who: usize, how: u64, pause: Duration) -> Result<()> {
        let (db, ctx) = (self.db.clone(), self.tenants[who].clone());
        let lost = "INSERT INTO notes VALUES ('lost')";
        match how {
            1 => {
                // Rolled back by being forgotten.
                let mut tx = db.tenant(&ctx).await.map_err(wrong)?;
                tx.conn().execute(lost).await?;
            }
            2 => {
                // A handler that panics in the middle.
                let died: JoinHandle<Result<()>> = tokio::spawn(async move {
                    let mut tx = db.tenant(&ctx).await.map_err(wrong)?;
                    tx.conn().execute(lost).await?;
                    std::panic::resume_unwind(Box::new("on purpose"))
                });
                ensure!(died.await.is_err(), "it did not panic");
            }
            3 => {
                // A query that is cancelled while it runs.
                let slow = async {
                    let mut tx = db.tenant(&ctx).await.map_err(wrong)?;
                    tx.conn().execute(lost).await?;
                    tx.conn().execute("SELECT pg_sleep(0.05)").await?;
                    drop(tx);
                    Ok::<(), anyhow::Error>(())
                };
                let _ = tokio::time::timeout(pause, slow).await;
            }
            4 => {
                // A statement that fails, and another after it.
                let mut tx = db.tenant(&ctx).await.map_err(wrong)?;
                ensure!(
                    tx.conn().execute("SELECT nothing FROM nowhere").await.is_err(),
                    "there is no such table"
                );
                ensure!(tx.conn().execute(lost).await.is_err(), "the transaction had failed");
            }
            _ => {
                // Settings of one's own end with the transaction.
                let mut tx = db.tenant(&ctx).await.map_err(wrong)?;
                tx.conn().execute("SET LOCAL statement_timeout = '7s'").await?;
            }
        }
        Ok(())
    }

    async fn look(&self, who: usize) -> Result<()> {
        let seen = notes(&self.db, &self.tenants[who]).await?;
        let kept = self.kept[who].lock().await;
        let odd: Vec<&String> = seen.iter().filter(|text| !kept.1.contains(*text)).collect();
        ensure!(odd.is_empty(), "{who} sees {odd:?}");
        Ok(())
    }
}

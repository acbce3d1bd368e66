//! No-op jobs through the queue, enqueued → allowed → claimed → completed, with their audit events and billing messages,
//! beside npm graphile-worker on the same PostgreSQL in the same run.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use nitejar_common::RequestCtx;
use nitejar_common::clock::{Clock as _, SystemClock, system};
use nitejar_common::id::{JobId, OrgId};
use nitejar_db::testing;
use nitejar_db::{Db, audit, outbox};
use nitejar_sprites::store::queue::{self, Ending, NewJob};
use nitejar_testkit::postgres::shared;
use serde_json::{Value, json};

const COUNT: usize = 20_000;
const BATCH: usize = 500;
const ROUNDS: usize = 3;

pub(super) async fn run() -> Result<Value> {
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    let npm = graphile_folder();
    for _ in 0..ROUNDS {
        ours.push(queue_round().await?);
        if let Ok(folder) = &npm {
            theirs.push(graphile_round(folder).await?);
        }
    }
    let median = |v: &mut Vec<f64>| {
        v.sort_by(f64::total_cmp);
        v.get(v.len() / 2).copied().unwrap_or(0.0)
    };
    let rate = (COUNT as f64 / median(&mut ours)).round();
    let mut result = json!({ "jobs": COUNT, "batch": BATCH, "jobs_per_s": rate });
    match npm {
        Ok(_) => {
            let other = (COUNT as f64 / median(&mut theirs)).round();
            result["graphile_worker_jobs_per_s"] = json!(other);
            result["ratio"] = json!((rate / other * 100.0).round() / 100.0);
        }
        Err(why) => result["graphile_worker"] = json!(format!("skipped: {why:#}")),
    }
    Ok(result)
}

/// Seconds for all jobs.
async fn queue_round() -> Result<f64> {
    let (db, database) = testing::open(nitejar_sprites::SCHEMA, system()).await?;
    let text = |e: nitejar_common::Error| anyhow!(e.log_text());
    let org = OrgId::new(&SystemClock);
    db.provision(&org).await.map_err(text)?;
    let ctx = RequestCtx::service("sprites", &SystemClock).for_tenant(org);
    let began = Instant::now();
    for _ in 0..COUNT / BATCH {
        enqueue(&db, &ctx).await.map_err(text)?;
    }
    // Two workers: what claims does not wait for what completes.
    let worker = async || -> nitejar_common::Result<usize> {
        let mut done = 0;
        loop {
            let batch = work(&db, &ctx).await?;
            if batch == 0 {
                return Ok(done);
            }
            done += batch;
        }
    };
    let (a, b) = tokio::join!(worker(), worker());
    let done = a.map_err(text)? + b.map_err(text)?;
    let seconds = began.elapsed().as_secs_f64();
    if done != COUNT {
        bail!("{done} of {COUNT} jobs were completed");
    }
    db.close().await;
    drop(database);
    Ok(seconds)
}

async fn enqueue(db: &Db, ctx: &RequestCtx) -> nitejar_common::Result<()> {
    let jobs: Vec<NewJob> = (0..BATCH)
        .map(|_| NewJob {
            id: JobId::new(&SystemClock).to_string(),
            agent_id: "agent_bench".into(),
            work_item_id: "work_bench".into(),
        })
        .collect();
    let ids: Vec<String> = jobs.iter().map(|j| j.id.clone()).collect();
    let mut tx = db.tenant(ctx).await?;
    queue::enqueue(tx.conn(), &jobs, 5, "", &ctx.request_id, SystemClock.now()).await?;
    tx.commit().await?;
    // What the dispatcher does once billing said yes.
    let mut tx = db.tenant(ctx).await?;
    queue::allow(tx.conn(), &ids).await?;
    tx.commit().await
}

/// Claims a batch and completes it; answers how many.
async fn work(db: &Db, ctx: &RequestCtx) -> nitejar_common::Result<usize> {
    let now = SystemClock.now();
    let most = i64::try_from(BATCH).unwrap_or(500);
    let mut tx = db.tenant(ctx).await?;
    let claimed =
        queue::claim(tx.conn(), "agent_bench", most, most * 2, now, now + chrono::Duration::seconds(30))
            .await?;
    tx.commit().await?;
    if claimed.is_empty() {
        return Ok(0);
    }
    let ids: Vec<String> = claimed.iter().map(|c| c.id.clone()).collect();
    let epochs: Vec<i64> = claimed.iter().map(|c| c.lease_epoch).collect();
    let mut tx = db.tenant(ctx).await?;
    let locked = queue::lock_running(tx.conn(), &ids, &epochs).await?;
    let endings: Vec<Ending> = locked
        .into_iter()
        .map(|(id, agent_id, _, _)| Ending {
            id,
            agent_id,
            state: "completed".into(),
            reason: String::new(),
            reserved: false,
            exit_code: Some(0),
            output: String::new(),
            run_at: None,
        })
        .collect();
    queue::finish(tx.conn(), &endings, SystemClock.now()).await?;
    outbox::push(tx.conn(), ctx, &SystemClock, "billing.commit", "", &serde_json::to_vec(&ids)?).await?;
    let events: Vec<_> = endings
        .iter()
        .map(|e| {
            audit::event(ctx, &SystemClock, "job.finished", ("job", &e.id), &[("state", e.state.clone())])
        })
        .collect();
    audit::push_all(tx.conn(), ctx, &SystemClock, events).await?;
    tx.commit().await?;
    Ok(endings.len())
}

/// A folder with graphile-worker in it.
fn graphile_folder() -> Result<PathBuf> {
    let dir = std::env::temp_dir().join("nitejar-bench-npm");
    std::fs::create_dir_all(&dir)?;
    if !dir.join("node_modules/graphile-worker").exists() {
        std::fs::write(dir.join("package.json"), "{\"private\":true,\"type\":\"module\"}")?;
        let status = std::process::Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--loglevel=error", "graphile-worker@0.18"])
            .current_dir(&dir)
            .stdout(std::process::Stdio::null())
            .status()
            .context("npm is not installed")?;
        if !status.success() {
            bail!("npm could not install graphile-worker");
        }
    }
    std::fs::write(dir.join("graphile.mjs"), include_str!("graphile.mjs"))?;
    Ok(dir)
}

async fn graphile_round(folder: &std::path::Path) -> Result<f64> {
    let cluster = shared().await?;
    let database = cluster.clone_of("bench_empty", |_| async { Ok(()) }).await?;
    let output = tokio::process::Command::new("node")
        .arg("graphile.mjs")
        .arg(&database.url)
        .arg(COUNT.to_string())
        .current_dir(folder)
        .output()
        .await
        .context("node is not installed")?;
    if !output.status.success() {
        bail!("graphile-worker failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    // It logs on standard output too; the last line is ours.
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.trim().lines().last().unwrap_or_default();
    let answer: Value = serde_json::from_str(last).context("graphile-worker said nothing")?;
    answer["seconds"].as_f64().context("graphile-worker gave no time")
}

//! PyPI's django-tenants beside ours, on the same server: a tenant is made, and a row is read in one. The reads take turns; the
//! ratio is that of the medians.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, Result};
use nitejar_common::RequestCtx;
use nitejar_common::clock::SystemClock;
use nitejar_common::id::OrgId;
use nitejar_db::Db;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Executor as _};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::scale::{Ground, folder, found, round, text};
use super::turns::{RUN, median};

/// Tenants that each makes.
const TENANTS: usize = 50;
const ROUNDS: usize = 9;

pub(super) async fn run(ground: &Ground, db: &Db, result: &mut Value) -> Result<()> {
    let (tenants, made) = make(db, result).await?;
    let Some(mut peer) = Peer::start(ground).await? else {
        result["scale_scoped_read_p50_ms"] = round(read(db, &tenants).await?);
        result["django_tenants"] = json!("skipped: Python's venv or PyPI is missing");
        return Ok(());
    };
    let theirs = peer.next().await?;
    let (mut our_reads, mut their_reads) = (Vec::new(), Vec::new());
    for turn in 0..=ROUNDS {
        let (ours, theirs) = (read(db, &tenants).await?, peer.read().await?);
        // The first turn only warms caches.
        if turn > 0 {
            our_reads.push(ours);
            their_reads.push(theirs);
        }
    }
    let (our_read, their_read) = (median(&mut our_reads), median(&mut their_reads));
    result["scale_scoped_read_p50_ms"] = round(our_read);
    result["django_tenant_made_p50_ms"] = round(theirs);
    result["django_scoped_read_p50_ms"] = round(their_read);
    result["django_made_ratio"] = round(theirs / made);
    result["django_read_ratio"] = round(their_read / our_read);
    Ok(())
}

/// Tenants, and the median milliseconds of making one.
async fn make(db: &Db, result: &mut Value) -> Result<(Vec<RequestCtx>, f64)> {
    let (mut spares, mut times, mut tenants) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TENANTS {
        let began = Instant::now();
        db.build_spare().await.map_err(text)?;
        spares.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    for _ in 0..TENANTS {
        let org = OrgId::new(&SystemClock);
        let began = Instant::now();
        db.provision(&org).await.map_err(text)?;
        found(db, org.clone()).await?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        tenants.push(RequestCtx::service("bench", &SystemClock).for_tenant(org));
    }
    let made = median(&mut times);
    result["scale_tenant_made_p50_ms"] = round(made);
    // Nobody waits for it, and it is work all the same.
    result["scale_spare_built_p50_ms"] = round(median(&mut spares));
    Ok((tenants, made))
}

/// The median milliseconds of a read, of each tenant in turn.
async fn read(db: &Db, tenants: &[RequestCtx]) -> Result<f64> {
    let (db, tenants) = (db.clone(), tenants.to_vec());
    // In a task, as a request is served: outside of one each answer wakes another thread.
    let task = tokio::spawn(async move {
        let mut times = Vec::new();
        for ctx in &tenants {
            for _ in 0..RUN {
                let began = Instant::now();
                let mut tx = db.tenant(ctx).await.map_err(text)?;
                sqlx::query("SELECT user_id, email, name, role FROM members WHERE user_id = $1")
                    .bind("user_1")
                    .fetch_one(tx.conn())
                    .await?;
                tx.commit().await.map_err(text)?;
                times.push(began.elapsed().as_secs_f64() * 1000.0);
            }
        }
        anyhow::Ok(median(&mut times))
    });
    task.await?
}

/// The script `django_peer.py`; it ends with its input.
struct Peer {
    _child: Child,
    ask: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// `None` without Python.
    async fn start(ground: &Ground) -> Result<Option<Self>> {
        let target = crate::test_stack::target_dir()?;
        let python = target.parent().context("no folder")?.join("bench-python/bin/python");
        if !python.exists() {
            return Ok(None);
        }
        let url = ground.cluster.url("postgres");
        let mut admin = PgConnection::connect(&url).await?;
        admin.execute("DROP DATABASE IF EXISTS bench_django WITH (FORCE)").await?;
        admin.execute("CREATE DATABASE bench_django").await?;
        let options: PgConnectOptions = url.parse()?;
        let password = url.split([':', '@']).nth(2).context("the address has no password")?;
        let script = folder()?.join("django_peer.py");
        std::fs::write(&script, include_str!("django_peer.py"))?;
        let mut child = Command::new(python)
            .arg(script)
            .args([options.get_host(), &options.get_port().to_string(), options.get_username(), password])
            .args(["bench_django", &TENANTS.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let ask = child.stdin.take().context("no input")?;
        let answers = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Some(Self { _child: child, ask, answers }))
    }

    async fn next(&mut self) -> Result<f64> {
        let line = self.answers.next_line().await?;
        Ok(line.context("django-tenants ended; what it said is above")?.parse()?)
    }

    async fn read(&mut self) -> Result<f64> {
        self.ask.write_all(b"\n").await?;
        self.next().await
    }
}

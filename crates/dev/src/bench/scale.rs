//! Ten thousand tenants in one database, of tenancy's own schema. Building them takes minutes and about 6 GB, so the server's
//! folder is kept below `target/`; a run that was stopped goes on, and the next one finds them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nitejar_common::RequestCtx;
use nitejar_common::clock::{SystemClock, system};
use nitejar_common::id::OrgId;
use nitejar_common::rng;
use nitejar_db::{DatabaseConfig, Db, MigrateMode, Migration, Schema};
use nitejar_tenancy::SCHEMA;
use nitejar_testkit::postgres::{Cluster, Durability};
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::django;
use super::turns::{Statement, WORKERS, compare, median, pick};
use crate::test_stack::{TestStack, person, test_tweaks};

const DATABASE: &str = "bench_tenants";
/// Organizations that are claimed, and created, to time it.
const TIMED: usize = 100;
/// How often each of two readers reads, beside the migration.
const EVERY: Duration = Duration::from_millis(20);

/// One transaction.
const WORK: &[Statement] = &[
    Statement { sql: "SELECT name, settings, version FROM {s}org", key: false },
    Statement { sql: "SELECT user_id, email, role FROM {s}members ORDER BY user_id LIMIT 50", key: false },
    Statement { sql: "SELECT id, name, role FROM {s}keys ORDER BY id LIMIT 50", key: false },
    Statement { sql: "SELECT name, version FROM {s}secrets ORDER BY name LIMIT 50", key: false },
    Statement { sql: "UPDATE {s}org SET version = version + 1", key: false },
];

pub(super) fn text(error: nitejar_common::Error) -> anyhow::Error {
    anyhow!(error.log_text())
}

pub(super) fn round(value: f64) -> Value {
    json!((value * 100.0).round() / 100.0)
}

/// A line of progress, for people.
#[expect(clippy::print_stderr, reason = "a person waits for minutes")]
fn say(line: &str) {
    eprintln!("{line}");
}

pub(super) struct Ground {
    pub(super) cluster: Cluster,
    config: DatabaseConfig,
}

impl Ground {
    async fn new() -> Result<Self> {
        let dir = folder()?;
        say(&format!("the tenants live in {}; delete it to be rid of them", dir.display()));
        let cluster = tokio::task::spawn_blocking(move || {
            let cluster = Cluster::start(&dir, Durability::Test)?;
            read_all(&dir.join("data/base"))?;
            anyhow::Ok(cluster)
        })
        .await??;
        let mut admin = PgConnection::connect(&cluster.url("postgres")).await?;
        let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(DATABASE)
            .fetch_one(&mut admin)
            .await?;
        if !exists {
            admin.execute(AssertSqlSafe(format!("CREATE DATABASE {DATABASE}"))).await?;
        }
        let mut config = nitejar_db::testing::config(&cluster.url(DATABASE));
        config.buckets = u16::try_from(WORKERS)?;
        config.bucket_connections = 2;
        config.spares = 0;
        config.max_tenants_per_connection = DatabaseConfig::default().max_tenants_per_connection;
        Ok(Self { cluster, config })
    }

    async fn raw(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.cluster.url(DATABASE)).await?)
    }

    async fn open(&self, schema: Schema, migrate: MigrateMode) -> Result<Db> {
        let config = DatabaseConfig { migrate, ..self.config.clone() };
        Db::open(&config, schema, system()).await.map_err(text)
    }
}

/// A server that has been up for a while has its files in memory; one that was just started would be measured with its disk.
fn read_all(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            read_all(&path)?;
        } else {
            std::io::copy(&mut std::fs::File::open(&path)?, &mut std::io::sink())?;
        }
    }
    Ok(())
}

pub(super) fn folder() -> Result<PathBuf> {
    let target = crate::test_stack::target_dir()?;
    let target = target.parent().context("the binaries lie in a folder of target")?;
    Ok(target.join("bench-tenants"))
}

pub(super) async fn run(tenants: usize, result: &mut Value) -> Result<()> {
    let ground = Ground::new().await?;
    clean(&ground).await?;
    let db = ground.open(SCHEMA, MigrateMode::OnStart).await?;
    build(&db, &ground, tenants).await?;
    let all: Vec<(String, i64)> =
        sqlx::query_as("SELECT org_id, number FROM control.tenants WHERE state = 'active' ORDER BY number")
            .fetch_all(&mut ground.raw().await?)
            .await?;
    let service = |org: OrgId| RequestCtx::service("bench", &SystemClock).for_tenant(org);
    let all: Vec<(RequestCtx, i64)> = all
        .into_iter()
        .map(|(org, number)| Ok((service(org.parse().map_err(|_| anyhow!("{org} is no id"))?), number)))
        .collect::<Result<_>>()?;
    result["scale_tenants"] = json!(all.len());
    bound(&db, &ground, &all, result).await?;
    claims(&db, result).await?;
    django::run(&ground, &db, result).await?;
    db.close().await;
    creation(&ground, result).await?;
    migration(&ground, &all, result).await?;
    Ok(())
}

/// Builds what is missing, two at a time.
async fn build(db: &Db, ground: &Ground, tenants: usize) -> Result<()> {
    let mut raw = ground.raw().await?;
    let have: i64 = sqlx::query_scalar("SELECT count(*) FROM control.tenants WHERE state = 'active'")
        .fetch_one(&mut raw)
        .await?;
    let missing = tenants.saturating_sub(usize::try_from(have)?);
    let (done, began) = (AtomicU64::new(0), Instant::now());
    let builder = |share: usize| {
        let done = &done;
        async move {
            for _ in 0..share {
                let org = OrgId::new(&SystemClock);
                db.build_spare().await.map_err(text)?;
                db.provision(&org).await.map_err(text)?;
                found(db, org).await?;
                let n = done.fetch_add(1, Ordering::Relaxed) + 1;
                if n.is_multiple_of(500) {
                    let rate = n as f64 / began.elapsed().as_secs_f64();
                    let left = (missing as f64 - n as f64) / rate;
                    say(&format!("{n} of {missing} tenants built, {rate:.0} a second, {left:.0} s left"));
                }
            }
            anyhow::Ok(())
        }
    };
    tokio::try_join!(builder(missing / 2), builder(missing - missing / 2))?;
    raw.execute("VACUUM (ANALYZE) control.tenants").await?;
    Ok(())
}

/// The rows that an organization begins with.
pub(super) async fn found(db: &Db, org: OrgId) -> Result<()> {
    let ctx = RequestCtx::service("bench", &SystemClock).for_tenant(org);
    let mut tx = db.tenant(&ctx).await.map_err(text)?;
    tx.conn()
        .execute(
            "INSERT INTO org (name, settings, version) VALUES ('Bench', '{}', 1); \
             INSERT INTO members (user_id, email, name, role, joined_at) \
             VALUES ('user_1', 'a@example.com', 'A', 'owner', now())",
        )
        .await?;
    tx.commit().await.map_err(text)
}

/// Bound beside unbound at random tenants, and what the backends hold afterwards.
async fn bound(db: &Db, ground: &Ground, all: &[(RequestCtx, i64)], result: &mut Value) -> Result<()> {
    let url = ground.cluster.url(DATABASE);
    let mut private = 0.0_f64;
    let after = async || {
        private = private.max(largest_backend(ground).await?);
        Ok(())
    };
    let (b, u) = compare(db, &url, all, WORK, after).await?;
    result["scale_bound_tx_per_s"] = json!(b.round());
    result["scale_unbound_tx_per_s"] = json!(u.round());
    result["scale_ratio"] = round(b / u);
    result["scale_largest_backend_private_mib"] = round(private);
    Ok(())
}

/// MiB that the largest of our logins' backends has for itself.
async fn largest_backend(ground: &Ground) -> Result<f64> {
    let pids: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND usename LIKE '%\\_b%' ESCAPE '\\'",
    )
    .bind(DATABASE)
    .fetch_all(&mut ground.raw().await?)
    .await?;
    let mut largest = 0.0_f64;
    for pid in pids {
        // One that ended meanwhile has nothing.
        let Ok(map) = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
        let kib: f64 = map
            .lines()
            .filter(|line| line.starts_with("Private_"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok())
            .sum();
        largest = largest.max(kib / 1024.0);
    }
    Ok(largest)
}

/// A spare becomes an organization's.
async fn claims(db: &Db, result: &mut Value) -> Result<()> {
    for _ in 0..TIMED {
        db.build_spare().await.map_err(text)?;
    }
    let mut times = Vec::new();
    for _ in 0..TIMED {
        let org = OrgId::new(&SystemClock);
        let began = Instant::now();
        db.provision(&org).await.map_err(text)?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
        found(db, org).await?;
    }
    result["scale_claim_p50_ms"] = round(median(&mut times));
    Ok(())
}

/// Organizations over HTTP, through all services; tenancy's database is the large one.
async fn creation(ground: &Ground, result: &mut Value) -> Result<()> {
    // Of an earlier run, with another master key.
    ground.raw().await?.execute("DELETE FROM control.master_keys; DELETE FROM control.data_keys").await?;
    let mut tweaks = test_tweaks();
    let spares = u32::try_from(TIMED * 2 + 20)?;
    let db = ground.open(SCHEMA, MigrateMode::Later).await?;
    // Some are left of an earlier run, and a service that has half of them builds none.
    for _ in count_spares(&mut ground.raw().await?).await?..i64::from(spares) {
        db.build_spare().await.map_err(text)?;
    }
    db.close().await;
    tweaks.spares = spares;
    let stack = TestStack::start_on(tweaks, [("tenancy", ground.cluster.url(DATABASE))].into()).await?;
    for service in ["sprites", "billing", "audit"] {
        wait_for_spares(&mut stack.database(service).await?, i64::from(spares)).await?;
    }
    let (owner, _) = person(&stack.operator()?, "owner").await?;
    let tag = hex::encode(rng::bytes::<4>());
    let mut times = Vec::new();
    for i in 0..TIMED {
        let body = json!({ "slug": format!("bench-{tag}-{i}"), "name": "Bench" });
        let began = Instant::now();
        owner.post("/v1/orgs", &body).await?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    result["scale_create_organization_p50_ms"] = round(median(&mut times));
    stack.stop().await
}

async fn count_spares(conn: &mut PgConnection) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM control.tenants WHERE state = 'spare'")
        .fetch_one(conn)
        .await?)
}

/// Until a service builds no spares any more: half of them are used up before one builds again, and what is timed is a creation,
/// not the DDL beside it.
async fn wait_for_spares(conn: &mut PgConnection, spares: i64) -> Result<()> {
    for _ in 0..1500 {
        if count_spares(conn).await? >= spares {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(anyhow!("the spares are not built within five minutes"))
}

/// A column and an index in every schema, and what readers notice of it.
async fn migration(ground: &Ground, all: &[(RequestCtx, i64)], result: &mut Value) -> Result<()> {
    let sql = "ALTER TABLE members ADD COLUMN bench text; CREATE INDEX members_bench ON members (bench);";
    let db = ground.open(with(&[sql]), MigrateMode::Later).await?;
    let mut quiet = latencies(&db, all, tokio::time::sleep(Duration::from_secs(15))).await?.1;
    let began = Instant::now();
    let quietly = |_| {};
    let (migrated, mut busy) = latencies(&db, all, db.migrate_tenants(&quietly)).await?;
    let migrated = migrated.map_err(text)?;
    let took = began.elapsed().as_secs_f64();
    let (quiet, busy) = (p99(&mut quiet), p99(&mut busy));
    result["scale_migrated_tenants"] = json!(migrated.done);
    result["scale_migration_s"] = round(took);
    result["scale_migration_laggards"] = json!(migrated.laggards.len());
    result["scale_reads_p99_quiet_ms"] = round(quiet);
    result["scale_reads_p99_migrating_ms"] = round(busy);
    result["scale_reads_p99_ratio"] = round(busy / quiet);
    db.close().await;
    clean(ground).await
}

/// Ordinary reads at a steady rate while something goes on: what that came to, and the milliseconds of each read.
async fn latencies<T>(
    db: &Db,
    all: &[(RequestCtx, i64)],
    meanwhile: impl Future<Output = T>,
) -> Result<(T, Vec<f64>)> {
    let stop = AtomicBool::new(false);
    let reader = || async {
        let mut times = Vec::new();
        let mut tick = tokio::time::interval(EVERY);
        while !stop.load(Ordering::Relaxed) {
            tick.tick().await;
            let (ctx, _) = pick(all);
            let began = Instant::now();
            let mut tx = db.tenant_read(ctx).await.map_err(text)?;
            for statement in WORK.iter().filter(|s| s.sql.starts_with("SELECT")) {
                sqlx::query(AssertSqlSafe(statement.sql.replace("{s}", ""))).fetch_all(tx.conn()).await?;
            }
            tx.commit().await.map_err(text)?;
            times.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        anyhow::Ok(times)
    };
    let work = async {
        let done = meanwhile.await;
        stop.store(true, Ordering::Relaxed);
        anyhow::Ok(done)
    };
    let (done, one, other) = tokio::try_join!(work, reader(), reader())?;
    Ok((done, [one, other].concat()))
}

fn p99(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() * 99 / 100).copied().unwrap_or(0.0)
}

/// Tenancy's schema with migrations of the bench after its own.
fn with(more: &[&'static str]) -> Schema {
    let mut tenant: Vec<Migration> = SCHEMA.tenant.to_vec();
    tenant.extend((SCHEMA.tenant_version() + 1..).zip(more).map(|(version, sql)| Migration {
        version,
        name: "bench",
        sql,
    }));
    // Once or twice in a run.
    Schema { tenant: Vec::leak(tenant), ..SCHEMA }
}

/// Takes the bench's own column away again, also one of a run that was stopped.
async fn clean(ground: &Ground) -> Result<()> {
    let mut raw = ground.raw().await?;
    let there: bool =
        sqlx::query_scalar("SELECT to_regclass('control.tenants') IS NOT NULL").fetch_one(&mut raw).await?;
    if !there {
        return Ok(());
    }
    let version = SCHEMA.tenant_version();
    let beyond: i64 = sqlx::query_scalar("SELECT count(*) FROM control.tenants WHERE schema_version > $1")
        .bind(version)
        .fetch_one(&mut raw)
        .await?;
    if beyond == 0 {
        return Ok(());
    }
    say("taking the bench's column away again");
    let back = with(&["SELECT", "ALTER TABLE members DROP COLUMN IF EXISTS bench;"]);
    // Those that the stopped run did not reach have nothing to take away.
    let db = ground.open(back, MigrateMode::Later).await?;
    db.migrate_tenants(&|_| {}).await.map_err(text)?;
    db.close().await;
    sqlx::query("UPDATE control.tenants SET schema_version = $1 WHERE schema_version > $1")
        .bind(version)
        .execute(&mut raw)
        .await?;
    Ok(())
}

//! What binding a transaction to its tenant costs, and what creating an organization costs.
//!
//! Bound: `TenantTx`. Unbound: the same statements with schema-qualified names on connections of the owner, as many, in
//! the same order of tenants. Both run in turn, several times; the ratio is that of the medians.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use nitejar_common::RequestCtx;
use nitejar_common::clock::{SystemClock, system};
use nitejar_common::id::OrgId;
use nitejar_common::rng;
use nitejar_db::{Db, Migration, Schema};
use nitejar_testkit::postgres::shared;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use crate::test_stack::{TestStack, person, test_tweaks};

/// Enough rows, and known to the planner, that a read by key uses the key from the start: a plan that was made for an
/// empty table would slow down whichever side made it first.
const SCHEMA: Schema = Schema {
    service: "bench",
    control: &[],
    shared: &[],
    tenant: &[Migration {
        version: 1,
        name: "bench",
        sql: "CREATE TABLE things (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner text NOT NULL, note text NOT NULL);
              INSERT INTO things (owner, note) SELECT 'a', 'note' FROM generate_series(1, 1000);
              ANALYZE things;
              CREATE TABLE counters (name text PRIMARY KEY, value bigint NOT NULL);
              INSERT INTO counters VALUES ('c', 0);
              GRANT SELECT, INSERT, UPDATE, DELETE ON things, counters TO {role};",
    }],
    private: &[],
};

/// Workers; each has a bucket, and so a connection, of its own.
const WORKERS: usize = 4;
/// Requests that a tenant makes in a row before another one is served: people and programs come in bursts.
const RUN: usize = 10;
const SLICE: Duration = Duration::from_secs(1);
const ROUNDS: usize = 9;

pub(super) async fn run(tenants_at_scale: usize) -> Result<Value> {
    let cluster = shared().await?;
    let database = cluster.clone_of("bench_empty", |_| async { Ok(()) }).await?;
    let mut config = nitejar_db::testing::config(&database.url);
    config.buckets = u16::try_from(WORKERS)?;
    // With one tenant all workers meet in one bucket: each must find a connection there, as each unbound one has its own.
    config.bucket_connections = u32::try_from(WORKERS)?;
    config.spares = 0;
    config.max_tenants_per_connection = 100_000;
    let text = |e: nitejar_common::Error| anyhow!(e.log_text());
    let db = Db::open(&config, SCHEMA, system()).await.map_err(text)?;
    let mut result = json!({});
    let mut tenants: Vec<(RequestCtx, i64)> = Vec::new();
    let mut ddl = Vec::new();
    for count in [1usize, 100, 1000] {
        while tenants.len() < count {
            let began = Instant::now();
            db.build_spare().await.map_err(text)?;
            ddl.push(began.elapsed().as_secs_f64() * 1000.0);
            let org = OrgId::new(&SystemClock);
            db.provision(&org).await.map_err(text)?;
            let ctx = RequestCtx::service("bench", &SystemClock).for_tenant(org);
            let number = db.tenant(&ctx).await.map_err(text)?.number();
            tenants.push((ctx, number));
        }
        let (mut bound, mut unbound) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let b = measure(&db, &database.url, &tenants, true).await?;
            let u = measure(&db, &database.url, &tenants, false).await?;
            // The first round only warms caches.
            if round > 0 {
                bound.push(b);
                unbound.push(u);
            }
        }
        let (b, u) = (median(&mut bound), median(&mut unbound));
        result[format!("{count}_tenants_bound_tx_per_s")] = json!(b.round());
        result[format!("{count}_tenants_unbound_tx_per_s")] = json!(u.round());
        result[format!("{count}_tenants_ratio")] = json!((b / u * 100.0).round() / 100.0);
    }
    db.close().await;
    creation(&mut result).await?;
    if tenants_at_scale > 0 {
        super::scale::run(tenants_at_scale, &mut result).await?;
    }
    Ok(result)
}

pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Transactions a second of all workers together.
async fn measure(db: &Db, url: &str, tenants: &[(RequestCtx, i64)], bound: bool) -> Result<f64> {
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let share: Vec<(RequestCtx, i64)> = tenants
            .iter()
            .filter(|(_, n)| {
                tenants.len() < WORKERS
                    || n.rem_euclid(i64::try_from(WORKERS).unwrap_or(1)) == i64::try_from(worker).unwrap_or(0)
            })
            .cloned()
            .collect();
        let (db, url) = (db.clone(), url.to_owned());
        tasks.spawn(async move {
            if bound { run_bound(&db, &share).await } else { run_unbound(&url, &share).await }
        });
    }
    let mut total = 0;
    while let Some(count) = tasks.join_next().await {
        total += count??;
    }
    Ok(f64::from(total) / SLICE.as_secs_f64())
}

fn pick(share: &[(RequestCtx, i64)]) -> &(RequestCtx, i64) {
    let at = rng::below(u64::try_from(share.len()).unwrap_or(1));
    &share[usize::try_from(at).unwrap_or(0)]
}

/// Of a row that each tenant has.
fn key() -> i64 {
    1 + i64::try_from(rng::below(1000)).unwrap_or(0)
}

async fn run_bound(db: &Db, share: &[(RequestCtx, i64)]) -> Result<u32> {
    let until = Instant::now() + SLICE;
    let mut count = 0;
    while Instant::now() < until {
        let (ctx, _) = pick(share);
        for _ in 0..RUN {
            let mut tx = db.tenant(ctx).await.map_err(|e| anyhow!(e.log_text()))?;
            let conn = tx.conn();
            for _ in 0..3 {
                sqlx::query("SELECT id, owner, note FROM things WHERE id = $1")
                    .bind(key())
                    .fetch_all(&mut *conn)
                    .await?;
            }
            sqlx::query("UPDATE counters SET value = value + 1 WHERE name = $1")
                .bind("c")
                .execute(&mut *conn)
                .await?;
            sqlx::query("INSERT INTO things (owner, note) VALUES ($1, $2)")
                .bind("b")
                .bind("note")
                .execute(conn)
                .await?;
            tx.commit().await.map_err(|e| anyhow!(e.log_text()))?;
            count += 1;
        }
    }
    Ok(count)
}

async fn run_unbound(url: &str, share: &[(RequestCtx, i64)]) -> Result<u32> {
    let options: PgConnectOptions = url.parse()?;
    let mut conn = PgConnection::connect_with(&options.statement_cache_capacity(256)).await?;
    let until = Instant::now() + SLICE;
    let mut count = 0;
    while Instant::now() < until {
        let t = pick(share).1;
        let select = format!("SELECT id, owner, note FROM t_{t}.things WHERE id = $1");
        let update = format!("UPDATE t_{t}.counters SET value = value + 1 WHERE name = $1");
        let insert = format!("INSERT INTO t_{t}.things (owner, note) VALUES ($1, $2)");
        for _ in 0..RUN {
            conn.execute("BEGIN").await?;
            for _ in 0..3 {
                sqlx::query(AssertSqlSafe(select.clone())).bind(key()).fetch_all(&mut conn).await?;
            }
            sqlx::query(AssertSqlSafe(update.clone())).bind("c").execute(&mut conn).await?;
            sqlx::query(AssertSqlSafe(insert.clone())).bind("b").bind("note").execute(&mut conn).await?;
            conn.execute("COMMIT").await?;
            count += 1;
        }
    }
    Ok(count)
}

/// Organizations over HTTP, through all five services, beside the DDL of the four schemas that each of them gets.
async fn creation(result: &mut Value) -> Result<()> {
    const COUNT: u32 = 100;
    let mut tweaks = test_tweaks();
    tweaks.spares = COUNT * 2 + 20;
    let stack = TestStack::start_with(tweaks).await?;
    let text = |e: nitejar_common::Error| anyhow!(e.log_text());
    let mut ddl = 0.0;
    for (name, schema) in [
        ("tenancy", nitejar_tenancy::SCHEMA),
        ("sprites", nitejar_sprites::SCHEMA),
        ("billing", nitejar_billing::SCHEMA),
        ("audit", nitejar_audit::SCHEMA),
    ] {
        let mut config = stack.databases[name].config.clone();
        config.spares = COUNT * 2 + 20;
        let db = Db::open(&config, schema, system()).await.map_err(text)?;
        // The services fill them too; both together are done when the number is reached.
        db.refill_spares().await.map_err(text)?;
        let mut times = Vec::new();
        for _ in 0..15 {
            let began = Instant::now();
            db.build_spare().await.map_err(text)?;
            times.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        ddl += median(&mut times);
        db.close().await;
    }
    let (owner, _) = person(&stack.operator()?, "owner").await?;
    let mut times = Vec::new();
    for i in 0..COUNT {
        let body = json!({ "slug": format!("bench-{i}"), "name": "Bench" });
        let began = Instant::now();
        owner.post("/v1/orgs", &body).await?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    let p50 = median(&mut times);
    let round = |v: f64| json!((v * 100.0).round() / 100.0);
    result["create_organization_p50_ms"] = round(p50);
    result["ddl_of_its_four_schemas_ms"] = round(ddl);
    result["create_organization_to_ddl"] = round(p50 / ddl);
    stack.stop().await
}

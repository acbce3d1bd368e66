//! What binding a transaction to its tenant costs, and what creating an organization costs.

use std::time::Instant;

use anyhow::{Result, anyhow};
use nitejar_common::RequestCtx;
use nitejar_common::clock::{SystemClock, system};
use nitejar_common::id::OrgId;
use nitejar_db::{Db, Migration, Schema};
use nitejar_testkit::postgres::shared;
use serde_json::{Value, json};

use super::turns::{Statement, WORKERS, compare, median};
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

/// One transaction.
const WORK: &[Statement] = &[
    Statement { sql: "SELECT id, owner, note FROM {s}things WHERE id = $1", key: true },
    Statement { sql: "SELECT id, owner, note FROM {s}things WHERE id = $1", key: true },
    Statement { sql: "SELECT id, owner, note FROM {s}things WHERE id = $1", key: true },
    Statement { sql: "UPDATE {s}counters SET value = value + 1 WHERE name = 'c'", key: false },
    Statement { sql: "INSERT INTO {s}things (owner, note) VALUES ('b', 'note')", key: false },
];

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
        let (b, u) = compare(&db, &database.url, &tenants, WORK, async || Ok(())).await?;
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

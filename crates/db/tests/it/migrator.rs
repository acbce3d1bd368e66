//! Migrating many tenants, killed at any moment, comes to the right end.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nitejar_common::clock::system;
use nitejar_common::rng;
use nitejar_db::testing::config;
use nitejar_db::{Db, Migration, Schema};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{SCHEMA, db, tenant, write};

const TENANTS: usize = 240;
const KILLS: usize = 20;

/// A column, an index, and something that must not happen twice.
const NEWER: Schema = Schema {
    tenant: &[
        SCHEMA.tenant[0],
        Migration {
            version: 2,
            name: "more",
            sql: "ALTER TABLE notes ADD COLUMN more text; CREATE INDEX notes_more ON notes (more);
                  INSERT INTO notes (text) VALUES ('migrated'); SELECT pg_sleep(0.04);",
        },
    ],
    ..SCHEMA
};

/// What the test below runs as a process of its own, so that it can be killed. By itself it does nothing.
#[tokio::test]
async fn child_migrates_what_the_environment_names() {
    let Ok(url) = std::env::var("NITEJAR_TEST_MIGRATE") else { return };
    Db::open(&config(&url), NEWER, system()).await.unwrap();
}

fn child(url: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "migrator::child_migrates_what_the_environment_names"]);
    command.env("NITEJAR_TEST_MIGRATE", url).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

async fn at_version(raw: &mut PgConnection, version: i32) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM control.tenants WHERE schema_version = $1")
        .bind(version)
        .fetch_one(raw)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migrator_that_is_killed_twenty_times_migrates_each_tenant_once() {
    let (old, keep) = db().await;
    let mut claimed = Vec::new();
    for _ in 0..TENANTS {
        old.build_spare().await.unwrap();
    }
    for i in 0..10 {
        let ctx = tenant(&old).await;
        write(&old, &ctx, &format!("of {i}")).await;
        claimed.push(ctx);
    }
    old.close().await;
    let url = keep.handle.url.clone();
    let mut raw = PgConnection::connect(&url).await.unwrap();
    let all: i64 = at_version(&mut raw, 1).await;
    let mut cut_short = 0;
    for _ in 0..KILLS {
        let mut process = child(&url).spawn().unwrap();
        // So long that some of its work is done, and some is not.
        tokio::time::sleep(Duration::from_millis(60 + rng::below(120))).await;
        let _ = process.kill();
        let ended = process.wait().unwrap();
        cut_short += usize::from(!ended.success());
        // At one moment: a server may still commit for who was killed.
        let known: i64 =
            sqlx::query_scalar("SELECT count(*) FROM control.tenants WHERE schema_version IN (1, 2)")
                .fetch_one(&mut raw)
                .await
                .unwrap();
        assert_eq!(known, all, "each is at the old version or at the new one");
    }
    assert!(cut_short > 3, "only {cut_short} were killed in the middle of it");
    let began = Instant::now();
    assert!(child(&url).status().unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(120));
    assert_eq!(at_version(&mut raw, 2).await, all);
    let numbers: Vec<i64> =
        sqlx::query_scalar("SELECT number FROM control.tenants").fetch_all(&mut raw).await.unwrap();
    for number in numbers {
        let sql = format!(
            "SELECT (SELECT count(*) FROM t_{number}.notes WHERE text = 'migrated'), \
             (SELECT count(*) FROM pg_indexes WHERE schemaname = 't_{number}' AND indexname = 'notes_more')"
        );
        let once: (i64, i64) = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut raw).await.unwrap();
        assert_eq!(once, (1, 1), "t_{number}");
    }
    let new = Db::open(&keep.config, NEWER, system()).await.unwrap();
    for (i, ctx) in claimed.iter().enumerate() {
        assert_eq!(super::notes(&new, ctx).await, ["migrated".to_owned(), format!("of {i}")]);
    }
}

/// A migration that fails on a canary spares all others; and whoever is read for long is left for later, and named.
#[tokio::test(flavor = "multi_thread")]
async fn canaries_spare_the_others_and_laggards_are_named() {
    const BROKEN: Schema = Schema {
        tenant: &[
            SCHEMA.tenant[0],
            Migration { version: 2, name: "broken", sql: "ALTER TABLE nothing ADD COLUMN x int;" },
        ],
        ..SCHEMA
    };
    let (old, keep) = db().await;
    for _ in 0..8 {
        old.build_spare().await.unwrap();
    }
    let (busy, canary) = (tenant(&old).await, tenant(&old).await);
    old.provision(canary.tenant().unwrap()).await.unwrap();
    let number = old.tenant(&busy).await.unwrap().number();
    old.close().await;
    let mut raw = PgConnection::connect(&keep.handle.url).await.unwrap();
    let all: i64 = at_version(&mut raw, 1).await;
    Db::open(&keep.config, BROKEN, system()).await.unwrap_err();
    assert_eq!(at_version(&mut raw, 1).await, all);

    let mut later = keep.config.clone();
    later.migrate = nitejar_db::MigrateMode::Later;
    let new = Db::open(&later, NEWER, system()).await.unwrap();
    assert_eq!(at_version(&mut raw, 1).await, all, "left for later");
    let mut reader = PgConnection::connect(&keep.handle.url).await.unwrap();
    let sql = format!("BEGIN; SELECT count(*) FROM t_{number}.notes");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut reader).await.unwrap();
    // One chosen canary alone; the busy one says so.
    assert!(!new.migrate_one(busy.tenant().unwrap()).await.unwrap());
    assert!(new.migrate_one(canary.tenant().unwrap()).await.unwrap());
    assert_eq!(at_version(&mut raw, 2).await, 1);
    let told = std::sync::Mutex::new(Vec::new());
    let migrated = new.migrate_tenants(&|p| told.lock().unwrap().push(p)).await.unwrap();
    assert_eq!((migrated.laggards, i64::try_from(migrated.done).unwrap()), (vec![number], all - 2));
    let told = told.into_inner().unwrap();
    assert!(told.windows(2).all(|w| w[0].done <= w[1].done) && told.len() > 3);
    assert!(
        told.iter()
            .all(|p| i64::try_from(p.of).unwrap() == all - 1 && p.left().is_none_or(|l| l.as_secs() < 600))
    );
    sqlx::raw_sql("ROLLBACK").execute(&mut reader).await.unwrap();
    let again = new.migrate_tenants(&|_| {}).await.unwrap();
    assert_eq!((again.done, again.laggards), (1, vec![]));
    assert_eq!(at_version(&mut raw, 2).await, all);
}

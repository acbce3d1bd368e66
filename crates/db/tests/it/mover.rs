//! Several databases of one service: where organizations are placed, and moving one, killed at any moment.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nitejar_common::RequestCtx;
use nitejar_common::clock::{SystemClock, system};
use nitejar_common::error::Code;
use nitejar_common::id::OrgId;
use nitejar_common::rng;
use nitejar_common::secret::Secret;
use nitejar_db::testing::{TestDatabase, database};
use nitejar_db::{DatabaseConfig, Db};
use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;

use super::{SCHEMA, notes, tenant, write};

const KILLS: usize = 20;
const SECOND: &str = "second";

async fn two() -> (DatabaseConfig, [TestDatabase; 2]) {
    let keep = [database(SCHEMA).await.unwrap(), database(SCHEMA).await.unwrap()];
    let mut config = keep[0].config.clone();
    config.more = [(SECOND.to_owned(), Secret::new(&keep[1].handle.url))].into();
    (config, keep)
}

async fn count(raw: &mut PgConnection, states: &[&str]) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM control.tenants WHERE state = ANY ($1)")
        .bind(states)
        .fetch_one(raw)
        .await
        .unwrap()
}

async fn raw(of: &TestDatabase) -> PgConnection {
    PgConnection::connect(&of.handle.url).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn organizations_are_placed_where_there_are_the_fewest_and_moved_whole() {
    let (config, keep) = two().await;
    let db = Db::open(&config, SCHEMA, system()).await.unwrap();
    let (mut first, mut second) = (raw(&keep[0]).await, raw(&keep[1]).await);
    let mut all = Vec::new();
    for i in 0..6 {
        let ctx = tenant(&db).await;
        db.provision(ctx.tenant().unwrap()).await.unwrap();
        write(&db, &ctx, &format!("of {i}")).await;
        all.push(ctx);
    }
    let living = ["active", "suspended"];
    assert_eq!((count(&mut first, &living).await, count(&mut second, &living).await), (3, 3));

    // Another process, which knows where they were, finds them where they are.
    let other = Db::open(&config, SCHEMA, system()).await.unwrap();
    for (i, ctx) in all.iter().enumerate() {
        assert_eq!(notes(&other, ctx).await, [format!("of {i}")]);
    }
    let org = all[0].tenant().unwrap();
    db.set_state(org, false, 7).await.unwrap();
    let moved = db.move_tenant(org, SECOND).await.unwrap().unwrap();
    assert!(moved.rows >= 1 && moved.tables >= 2, "{moved:?}");
    assert_eq!(db.move_tenant(org, SECOND).await.unwrap(), None, "it is there");
    for ctx in &all[1..] {
        db.move_tenant(ctx.tenant().unwrap(), SECOND).await.unwrap();
    }
    assert_eq!((count(&mut first, &living).await, count(&mut second, &living).await), (0, 6));
    for (i, ctx) in all.iter().enumerate() {
        // At the first touch its old place is gone; at the second one the new one is known.
        for last in [false, true] {
            let mut found = match other.tenant(ctx).await {
                Ok(found) => found,
                Err(error) if !last => {
                    assert_eq!(error.code(), Code::Unavailable);
                    continue;
                }
                Err(error) => panic!("{}", error.log_text()),
            };
            let row: Result<String, _> =
                sqlx::query_scalar("SELECT text FROM notes").fetch_one(found.conn()).await;
            match row {
                Ok(text) => assert_eq!(text, format!("of {i}")),
                Err(error) if !last => {
                    assert_eq!(nitejar_db::errors::from_sqlx(error).code(), Code::Unavailable);
                    drop(found);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                Err(error) => panic!("{error}"),
            }
            break;
        }
    }
    let (state, version): (String, i64) =
        sqlx::query_as("SELECT state, state_version FROM control.tenants WHERE org_id = $1")
            .bind(org.as_str())
            .fetch_one(&mut second)
            .await
            .unwrap();
    assert_eq!((state.as_str(), version), ("suspended", 7), "a suspension moves along");
    db.set_state(org, true, 8).await.unwrap();
    assert_eq!(count(&mut second, &["active"]).await, 6);

    // And back, and purged where it is.
    db.move_tenant(org, "").await.unwrap().unwrap();
    assert_eq!(notes(&db, &all[0]).await, ["of 0"]);
    assert_eq!(db.move_tenant(org, "third").await.unwrap_err().code(), Code::Internal);
    let purged = db.purge(all[1].tenant().unwrap(), &nitejar_db::life::NothingElse).await.unwrap();
    assert!(purged.iter().any(|t| t.name == "notes" && t.rows == 1), "{purged:?}");
    assert!(db.was_purged(all[1].tenant().unwrap()).await.unwrap());
    assert_eq!(db.tenant(&all[1]).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(count(&mut second, &["purged"]).await, 1);
    // Whoever forgets a database that organizations are in does not start.
    let mut forgot = config.clone();
    forgot.more.clear();
    let error = Db::open(&forgot, SCHEMA, system()).await.unwrap_err();
    assert!(error.log_text().contains("database.more"), "{}", error.log_text());
}

/// Another process of the service, which is told nothing of moves and has kept nothing, asks at every moment of many.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_during_a_move_is_told_to_come_again_and_never_that_there_is_nothing() {
    let (config, keep) = two().await;
    let db = Db::open(&config, SCHEMA, system()).await.unwrap();
    let ctx = tenant(&db).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for _ in 0..4 {
        let (other, ctx, stop) =
            (Db::open(&config, SCHEMA, system()).await.unwrap(), ctx.clone(), Arc::clone(&stop));
        readers.push(tokio::spawn(async move {
            let mut refused = 0;
            while !stop.load(Ordering::Relaxed) {
                match other.tenant(&ctx).await {
                    Ok(_) => {}
                    Err(error) if matches!(error.code(), Code::Unavailable | Code::Aborted) => refused += 1,
                    Err(error) => panic!("{}", error.log_text()),
                }
            }
            refused
        }));
    }
    for version in 1..=30 {
        let to = if version % 2 == 0 { SECOND } else { "" };
        let org = ctx.tenant().unwrap();
        let (moved, ()) = tokio::join!(db.move_tenant(org, to), async {
            // As the outbox does: until it is known.
            while db.set_state(org, version % 3 == 0, version).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        moved.unwrap();
        let known: (String, i64) =
            sqlx::query_as("SELECT state, state_version FROM control.tenants WHERE org_id = $1")
                .bind(org.as_str())
                .fetch_one(&mut raw(&keep[usize::from(to == SECOND)]).await)
                .await
                .unwrap();
        let state = if version % 3 == 0 { "active" } else { "suspended" };
        assert_eq!(known, (state.to_owned(), version), "what was said during a move is known after it");
    }
    stop.store(true, Ordering::Relaxed);
    let mut refused = 0;
    for reader in readers {
        refused += reader.await.unwrap();
    }
    assert!(refused > 0, "nobody asked in between");
}

/// What the test below runs as a process of its own, so that it can be killed. By itself it does nothing.
#[tokio::test]
async fn child_moves_what_the_environment_names() {
    let Ok(what) = std::env::var("NITEJAR_TEST_MOVE") else { return };
    let mut parts = what.split(' ');
    let mut config = nitejar_db::testing::config(parts.next().unwrap());
    config.more = [(SECOND.to_owned(), Secret::new(parts.next().unwrap()))].into();
    let orgs: Vec<OrgId> = parts.map(|org| org.parse().unwrap()).collect();
    let db = Db::open(&config, SCHEMA, system()).await.unwrap();
    for i in 0.. {
        let to = if rng::below(2) == 0 { "" } else { SECOND };
        // Another one that was killed may still hold something for a moment.
        let _ = db.move_tenant(&orgs[i % orgs.len()], to).await;
    }
}

/// Writes numbered notes until told to stop; answers (those that were acknowledged, those that were tried).
async fn writer(db: Db, ctx: RequestCtx, stop: Arc<AtomicBool>) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut written, mut tried) = (BTreeSet::new(), BTreeSet::new());
    for i in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let text = format!("note {i}");
        tried.insert(text.clone());
        let attempt = async {
            let mut tx = db.tenant(&ctx).await?;
            sqlx::query("INSERT INTO notes VALUES ($1)")
                .bind(&text)
                .execute(tx.conn())
                .await
                .map_err(nitejar_db::errors::from_sqlx)?;
            nitejar_db::outbox::push(tx.conn(), &ctx, &SystemClock, "test", "", text.as_bytes()).await?;
            tx.commit().await
        };
        match attempt.await {
            Ok(()) => drop(written.insert(text)),
            Err(error) => assert!(
                matches!(error.code(), Code::Unavailable | Code::Aborted),
                "a writer is told to come again, and nothing else: {}",
                error.log_text()
            ),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (written, tried)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_that_is_killed_twenty_times_loses_and_doubles_nothing() {
    let (config, keep) = two().await;
    let db = Db::open(&config, SCHEMA, system()).await.unwrap();
    let (mut first, mut second) = (raw(&keep[0]).await, raw(&keep[1]).await);
    let stop = Arc::new(AtomicBool::new(false));
    let (mut all, mut writers) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let ctx = tenant(&db).await;
        writers.push(tokio::spawn(writer(db.clone(), ctx.clone(), Arc::clone(&stop))));
        all.push(ctx);
    }
    let orgs: Vec<&str> = all.iter().map(|ctx| ctx.tenant().unwrap().as_str()).collect();
    let what = format!("{} {} {}", keep[0].handle.url, keep[1].handle.url, orgs.join(" "));
    let mut cut_short = 0;
    for _ in 0..KILLS {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "mover::child_moves_what_the_environment_names"]);
        let mut process = command
            .env("NITEJAR_TEST_MOVE", &what)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(150 + rng::below(600))).await;
        process.kill().unwrap();
        process.wait().unwrap();
        let moving: i64 =
            sqlx::query_scalar("SELECT count(*) FROM control.placements WHERE moving_to IS NOT NULL")
                .fetch_one(&mut first)
                .await
                .unwrap();
        cut_short += moving;
    }
    assert!(cut_short > 3, "only {cut_short} moves were killed in the middle");
    // What every process of the service does now and then.
    let running = CancellationToken::new();
    let maintenance = tokio::spawn({
        let (db, running) = (db.clone(), running.clone());
        async move { db.run(running).await }
    });
    let open = "SELECT count(*) FROM control.placements WHERE moving_to IS NOT NULL";
    for _ in 0..600 {
        let left: i64 = sqlx::query_scalar(open).fetch_one(&mut first).await.unwrap();
        if left == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let both = ["active", "suspended", "arriving"];
    assert_eq!(count(&mut first, &both).await + count(&mut second, &both).await, 3, "each is in one place");
    for (ctx, writer) in all.iter().zip(writers) {
        let (written, tried) = writer.await.unwrap();
        let found = notes(&db, ctx).await;
        let distinct: BTreeSet<String> = found.iter().cloned().collect();
        assert_eq!(found.len(), distinct.len(), "nothing is doubled");
        assert!(written.is_subset(&distinct), "nothing that was acknowledged is lost");
        assert!(distinct.is_subset(&tried) && written.len() > 50, "{} were written", written.len());
        // Each note has its message, wherever it travelled.
        let mut tx = db.tenant(ctx).await.unwrap();
        let messages: Vec<Vec<u8>> =
            sqlx::query_scalar("SELECT payload FROM outbox").fetch_all(tx.conn()).await.unwrap();
        let messages: BTreeSet<String> =
            messages.into_iter().map(|m| String::from_utf8(m).unwrap()).collect();
        assert_eq!(messages, distinct);
    }
    running.cancel();
    maintenance.await.unwrap().unwrap();
}

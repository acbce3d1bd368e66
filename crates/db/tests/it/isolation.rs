//! No way from one tenant to another. Each attack is followed by a question to the victim.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::{db, notes, tenant, write};

#[tokio::test]
async fn a_tenants_role_reads_and_writes_nothing_of_anothers() {
    let (db, _keep) = db().await;
    let (attacker, victim) = (tenant(&db).await, tenant(&db).await);
    write(&db, &victim, "victim's").await;
    let number = db.tenant(&victim).await.unwrap().number();
    for attack in [
        format!("SELECT text FROM t_{number}.notes"),
        format!("INSERT INTO t_{number}.notes VALUES ('attacker')"),
        format!("UPDATE t_{number}.notes SET text = 'attacker'"),
        format!("DELETE FROM t_{number}.notes"),
        format!("DROP TABLE t_{number}.notes"),
        format!("SET LOCAL search_path = t_{number}; SELECT text FROM notes"),
        "SELECT org_id FROM control.tenants".to_owned(),
        "SELECT payload FROM control.outbox".to_owned(),
        "SELECT * FROM control.meta".to_owned(),
        "SELECT * FROM pg_authid".to_owned(),
        "CREATE TABLE mine (x int)".to_owned(),
        "CREATE SCHEMA mine".to_owned(),
        "CREATE TEMP TABLE mine (x int)".to_owned(),
    ] {
        let mut tx = db.tenant(&attacker).await.unwrap();
        let result = tx.conn().execute(sqlx::raw_sql(AssertSqlSafe(attack.clone()))).await;
        assert!(result.is_err(), "{attack} was allowed");
    }
    assert_eq!(notes(&db, &victim).await, ["victim's"]);
    assert!(notes(&db, &attacker).await.is_empty());
}

#[tokio::test]
async fn an_unbound_connection_reads_nothing_at_all() {
    let (db, keep) = db().await;
    let victim = tenant(&db).await;
    write(&db, &victim, "victim's").await;
    let number = db.tenant(&victim).await.unwrap().number();
    for login in [db.testing_bucket_login(number), db.testing_control_login()] {
        let mut raw = sqlx::PgConnection::connect_with(&login).await.unwrap();
        for attack in [
            "SELECT text FROM notes".to_owned(),
            format!("SELECT text FROM t_{number}.notes"),
            format!("SET search_path = t_{number}; SELECT text FROM notes"),
        ] {
            assert!(raw.execute(sqlx::raw_sql(AssertSqlSafe(attack.clone()))).await.is_err(), "{attack}");
        }
    }
    assert_eq!(notes(&db, &victim).await, ["victim's"]);
    drop(keep);
}

/// A handler that panics, one that is cancelled and one that forgets to commit leave nothing behind for the next tenant
/// on the same connection.
#[tokio::test]
async fn nothing_of_one_transaction_leaks_into_the_next() {
    let (db, _keep) = db().await;
    let (a, b) = (tenant(&db).await, tenant(&db).await);
    for round in 0..30 {
        let (db2, a2) = (db.clone(), a.clone());
        let handler = tokio::spawn(async move {
            let mut tx = db2.tenant(&a2).await.unwrap();
            sqlx::query("INSERT INTO notes VALUES ('a')").execute(tx.conn()).await.unwrap();
            match round % 3 {
                0 => panic!("on purpose"),
                1 => {
                    sqlx::query("SELECT pg_sleep(60)").execute(tx.conn()).await.unwrap();
                }
                _ => {}
            }
        });
        if round % 3 == 1 {
            tokio::task::yield_now().await;
            handler.abort();
        }
        let _ = handler.await;
        assert!(notes(&db, &b).await.is_empty(), "round {round}");
        write(&db, &b, "b").await;
        let mut tx = db.tenant(&b).await.unwrap();
        sqlx::query("DELETE FROM notes").execute(tx.conn()).await.unwrap();
        tx.commit().await.unwrap();
        assert!(notes(&db, &a).await.is_empty(), "round {round}: what was not committed is gone");
    }
}

#[tokio::test]
async fn a_connection_serves_a_bounded_number_of_tenants() {
    let (_, keep) = db().await;
    let mut config = keep.config.clone();
    config.bucket_connections = 1;
    config.max_tenants_per_connection = 2;
    let db = nitejar_db::Db::open(&config, super::SCHEMA, nitejar_common::clock::system()).await.unwrap();
    let mut tenants = Vec::new();
    let mut seen = std::collections::HashMap::<i32, std::collections::HashSet<i64>>::new();
    for _ in 0..8 {
        tenants.push(tenant(&db).await);
    }
    for ctx in tenants.iter().chain(&tenants) {
        let mut tx = db.tenant(ctx).await.unwrap();
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(tx.conn()).await.unwrap();
        seen.entry(pid).or_default().insert(tx.number());
        tx.commit().await.unwrap();
    }
    assert!(seen.values().all(|tenants| tenants.len() <= 2), "{seen:?}");
    assert!(seen.values().any(|tenants| tenants.len() == 2), "connections are reused: {seen:?}");
}

/// Two tenants on one connection, in any order, with everything that can go wrong in between: each sees its own rows, always.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_interleaving_of_two_tenants_keeps_them_apart() {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::Mutex;

    let (_first, keep) = db().await;
    let mut config = keep.config.clone();
    // One login with two connections: both tenants meet on them all the time.
    config.bucket_connections = 2;
    let db = nitejar_db::Db::open(&config, super::SCHEMA, nitejar_common::clock::system()).await.unwrap();
    let tenants = [tenant(&db).await, tenant(&db).await];
    let seed = std::env::var("NITEJAR_SEED").ok().and_then(|s| s.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| nitejar_common::rng::below(u64::MAX));
    // What each has committed for certain, and what it may have.
    type Kept = Mutex<(BTreeSet<String>, BTreeSet<String>)>;
    let kept: Arc<[Kept; 2]> = Arc::new(Default::default());
    let work = (0..6u64).map(|task| {
        let (db, tenants, kept) = (db.clone(), tenants.clone(), Arc::clone(&kept));
        tokio::spawn(async move {
            let mut state = seed ^ (task + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut pick = move |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            for step in 0..60 {
                let who = usize::try_from(pick(2)).unwrap();
                let ctx = tenants[who].clone();
                let text = format!("{who} {task} {step}");
                match pick(7) {
                    0 => {
                        // Two that write at the same time would know of each other's rows: one after the other.
                        let mut kept = kept[who].lock().await;
                        kept.1.insert(text.clone());
                        write(&db, &ctx, &text).await;
                        kept.0.insert(text);
                    }
                    1 => {
                        // Rolled back by being forgotten.
                        let mut tx = db.tenant(&ctx).await.unwrap();
                        sqlx::query("INSERT INTO notes VALUES ('lost')").execute(tx.conn()).await.unwrap();
                    }
                    2 => {
                        // A handler that panics in the middle.
                        let db = db.clone();
                        let died = tokio::spawn(async move {
                            let mut tx = db.tenant(&ctx).await.unwrap();
                            sqlx::query("INSERT INTO notes VALUES ('lost')")
                                .execute(tx.conn())
                                .await
                                .unwrap();
                            std::panic::resume_unwind(Box::new("on purpose"));
                        });
                        died.await.unwrap_err();
                    }
                    3 => {
                        // A query that is cancelled while it runs.
                        let slow = async {
                            let mut tx = db.tenant(&ctx).await?;
                            sqlx::query("SELECT pg_sleep(0.2), 'lost'").execute(tx.conn()).await?;
                            tx.commit().await
                        };
                        let _ = tokio::time::timeout(Duration::from_millis(pick(40)), slow).await;
                    }
                    4 => {
                        // A statement that fails, and another after it.
                        let mut tx = db.tenant(&ctx).await.unwrap();
                        tx.conn().execute("SELECT nothing FROM nowhere").await.unwrap_err();
                        tx.conn().execute("INSERT INTO notes VALUES ('lost')").await.unwrap_err();
                    }
                    5 => {
                        // Settings of one's own end with the transaction.
                        let mut tx = db.tenant(&ctx).await.unwrap();
                        tx.conn().execute("SET LOCAL statement_timeout = '7s'").await.unwrap();
                    }
                    _ => {
                        let seen: BTreeSet<String> = super::notes(&db, &ctx).await.into_iter().collect();
                        let kept = kept[who].lock().await;
                        assert!(
                            seen.iter().all(|text| kept.1.contains(text)),
                            "NITEJAR_SEED={seed}: {who} sees {seen:?}"
                        );
                        assert!(
                            seen.iter().all(|text| text.starts_with(&format!("{who} "))),
                            "NITEJAR_SEED={seed}: {seen:?}"
                        );
                    }
                }
            }
        })
    });
    for task in work.collect::<Vec<_>>() {
        task.await.unwrap_or_else(|error| panic!("NITEJAR_SEED={seed}: {error}"));
    }
    for (who, ctx) in tenants.iter().enumerate() {
        let seen: BTreeSet<String> = super::notes(&db, ctx).await.into_iter().collect();
        assert_eq!(seen, kept[who].lock().await.0, "NITEJAR_SEED={seed}");
        let mut tx = db.tenant(ctx).await.unwrap();
        let timeout: String =
            sqlx::query_scalar("SHOW statement_timeout").fetch_one(tx.conn()).await.unwrap();
        assert_eq!(timeout, "30s");
    }
}

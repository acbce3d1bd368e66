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

/// Two tenants on a few connections, in any order, with everything that can go wrong in between: each sees its own rows, always.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_interleaving_of_two_tenants_keeps_them_apart() {
    let seed = std::env::var("NITEJAR_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| nitejar_common::rng::below(u64::MAX));
    let outcome = nitejar_db::testing::interleavings::run(seed).await;
    let outcome = outcome.unwrap_or_else(|error| panic!("NITEJAR_SEED={seed}: {error:#}"));
    assert!(outcome.committed > 10 && outcome.broken_off > 50 && outcome.looked > 10, "{outcome:?}");
}

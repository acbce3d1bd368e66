//! Deleting all of one organization, and nothing of another.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use nitejar_common::clock::{SystemClock, system};
use nitejar_common::{Code, RequestCtx};
use nitejar_db::outbox::{Deliver, Delivery, OutboxMessage, Relay, push};
use nitejar_db::testing::open;
use nitejar_db::{Db, Migration, Owner, PurgedTable, Schema, SharedTable};
use sqlx::Connection as _;

use super::{db, notes, tenant, write};

/// With a table that tenants share.
const SHARING: Schema = Schema {
    service: "dbtest",
    control: &[Migration {
        version: 1,
        name: "shared",
        sql: "CREATE TABLE control.marks (tenant_number bigint NOT NULL, text text NOT NULL);
              CREATE TABLE control.names (org_id text NOT NULL, text text NOT NULL);
              GRANT SELECT, INSERT ON control.marks, control.names TO {control};",
    }],
    shared: &[
        SharedTable { table: "marks", owner: Owner::Number },
        SharedTable { table: "names", owner: Owner::Org },
    ],
    ..super::SCHEMA
};

fn rows(tables: &[PurgedTable], name: &str) -> i64 {
    tables.iter().find(|t| t.name == name).unwrap().rows
}

async fn mark(db: &Db, ctx: &RequestCtx) -> i64 {
    let tx = db.tenant(ctx).await.unwrap();
    let number = tx.number();
    drop(tx);
    let mut tx = db.control().await.unwrap();
    for sql in [
        "INSERT INTO marks VALUES ($1, 'x')",
        "INSERT INTO names SELECT org_id, 'x' FROM tenants WHERE number = $1",
    ] {
        sqlx::query(sql).bind(number).execute(tx.conn()).await.unwrap();
    }
    tx.commit().await.unwrap();
    number
}

#[tokio::test]
async fn all_of_one_goes_and_the_neighbour_stays() {
    let (db, keep) = open(SHARING, system()).await.unwrap();
    let (gone, stays) = (tenant(&db).await, tenant(&db).await);
    for (ctx, text) in [(&gone, "a"), (&gone, "b"), (&stays, "c")] {
        write(&db, ctx, text).await;
    }
    let (number, other) = (mark(&db, &gone).await, mark(&db, &stays).await);
    let org = gone.tenant().unwrap();
    let tables = db.purge(org, &nitejar_db::life::NothingElse).await.unwrap();
    for (name, expected) in
        [("notes", 2), ("outbox", 0), ("control.marks", 1), ("control.names", 1), ("control.outbox_due", 0)]
    {
        assert_eq!(rows(&tables, name), expected, "{name}");
    }
    assert_eq!(
        db.purge(org, &nitejar_db::life::NothingElse).await.unwrap(),
        tables,
        "asked again, the same answer"
    );
    assert_eq!(db.tenant(&gone).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(db.org_of(number).await.unwrap(), None);
    assert_eq!(notes(&db, &stays).await, ["c"]);
    let mut raw = sqlx::PgConnection::connect(&keep.handle.url).await.unwrap();
    let left: Vec<i64> =
        sqlx::query_scalar("SELECT tenant_number FROM control.marks").fetch_all(&mut raw).await.unwrap();
    assert_eq!(left, [other]);
    let there: bool = sqlx::query_scalar("SELECT to_regnamespace('t_' || $1) IS NOT NULL")
        .bind(number.to_string())
        .fetch_one(&mut raw)
        .await
        .unwrap();
    assert!(!there, "the schema is there");
    // Nobody who was never here has anything.
    let stranger = nitejar_common::id::OrgId::new(&SystemClock);
    assert_eq!(db.purge(&stranger, &nitejar_db::life::NothingElse).await.unwrap(), []);
}

/// Another replica learns of it by the role that is not there any more; a suspended organization is read on.
#[tokio::test]
async fn other_replicas_notice_and_a_suspended_one_is_read_on() {
    let (db, keep) = db().await;
    let other = Db::open(&keep.config, super::SCHEMA, system()).await.unwrap();
    let ctx = tenant(&db).await;
    write(&other, &ctx, "a").await;
    let org = ctx.tenant().unwrap();
    db.set_state(org, false, 2).await.unwrap();
    db.set_state(org, true, 1).await.unwrap();
    assert_eq!(notes(&other, &ctx).await, ["a"]);
    let mut raw = sqlx::PgConnection::connect(&keep.handle.url).await.unwrap();
    let state: String = sqlx::query_scalar("SELECT state FROM control.tenants WHERE org_id = $1")
        .bind(org.as_str())
        .fetch_one(&mut raw)
        .await
        .unwrap();
    assert_eq!(state, "suspended", "what comes late is ignored");
    db.purge(org, &nitejar_db::life::NothingElse).await.unwrap();
    // Where the role stays (a clone uses it, too) the first one fails at its first statement, and what comes after looks anew.
    let mut refused = 0;
    for _ in 0..200 {
        match other.tenant(&ctx).await {
            Err(error) => {
                assert_eq!(error.code(), Code::NotFound);
                refused += 1;
            }
            Ok(mut tx) => {
                let seen: sqlx::Result<String> =
                    sqlx::query_scalar("SELECT text FROM notes").fetch_one(tx.conn()).await;
                seen.unwrap_err();
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(refused > 100, "{refused}");
    db.set_state(org, true, 9).await.unwrap();
    assert_eq!(other.tenant(&ctx).await.unwrap_err().code(), Code::NotFound, "there is no way back");
}

#[derive(Default)]
struct Taken(Arc<Mutex<Vec<String>>>);

impl Deliver for Taken {
    fn deliver<'a>(&'a self, _: &'a RequestCtx, batch: &'a [OutboxMessage]) -> BoxFuture<'a, Vec<Delivery>> {
        self.0.lock().unwrap().extend(batch.iter().map(|m| String::from_utf8(m.payload.clone()).unwrap()));
        Box::pin(std::future::ready(vec![Ok(()); batch.len()]))
    }
}

#[tokio::test]
async fn what_is_still_to_be_delivered_or_written_holds_it_up() {
    let (db, _keep) = db().await;
    let ctx = tenant(&db).await;
    let org = ctx.tenant().unwrap();
    let mut tx = db.tenant(&ctx).await.unwrap();
    push(tx.conn(), &ctx, &SystemClock, "test", "", b"an event").await.unwrap();
    // Not committed yet: whoever purges can't get in between.
    let refused = db.purge(org, &nitejar_db::life::NothingElse).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{}", refused.log_text());
    tx.commit().await.unwrap();
    let refused = db.purge(org, &nitejar_db::life::NothingElse).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{}", refused.log_text());
    let taken = Arc::new(Taken::default());
    let relay = Relay::new(db.clone(), "dbtest").topic("test", taken.clone());
    while relay.turn().await.unwrap() {}
    assert_eq!(*taken.0.lock().unwrap(), ["an event"]);
    db.purge(org, &nitejar_db::life::NothingElse).await.unwrap();
}

/// Of many at once one does it, and all hear the same.
#[tokio::test]
async fn many_at_once_are_one() {
    let (db, _keep) = db().await;
    let ctx = tenant(&db).await;
    write(&db, &ctx, "a").await;
    let org = ctx.tenant().unwrap();
    let all =
        futures_util::future::join_all((0..8).map(|_| db.purge(org, &nitejar_db::life::NothingElse))).await;
    let done: Vec<_> = all.into_iter().filter_map(|r| r.ok()).collect();
    assert!(!done.is_empty());
    for tables in done {
        assert_eq!(rows(&tables, "notes"), 1);
    }
}

/// In a database that is no clone, whose roles are its own, the role goes with the schema.
#[tokio::test]
async fn the_role_goes_too() {
    use sqlx::{AssertSqlSafe, Executor as _};
    let (_db, keep) = db().await;
    let name = format!("nj_own_{}", hex::encode(nitejar_common::rng::bytes::<6>()));
    let mut raw = sqlx::PgConnection::connect(&keep.handle.url).await.unwrap();
    raw.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
    let (base, _) = keep.handle.url.rsplit_once('/').unwrap();
    let config = nitejar_db::testing::config(&format!("{base}/{name}"));
    let own = Db::open(&config, super::SCHEMA, system()).await.unwrap();
    let (gone, stays) = (tenant(&own).await, tenant(&own).await);
    write(&own, &stays, "kept").await;
    let number = own.tenant(&gone).await.unwrap().number();
    let roles = async |raw: &mut sqlx::PgConnection| -> Vec<String> {
        sqlx::query_scalar("SELECT rolname::text FROM pg_roles WHERE rolname LIKE $1 || '\\_t%' ORDER BY 1")
            .bind(&name)
            .fetch_all(raw)
            .await
            .unwrap()
    };
    let role = format!("{name}_t{number}");
    assert!(roles(&mut raw).await.contains(&role));
    own.purge(gone.tenant().unwrap(), &nitejar_db::life::NothingElse).await.unwrap();
    assert!(!roles(&mut raw).await.contains(&role));
    assert_eq!(own.tenant(&gone).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(notes(&own, &stays).await, ["kept"]);
    own.close().await;
    raw.execute(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await.unwrap();
    let left: Vec<String> =
        sqlx::query_scalar("SELECT rolname::text FROM pg_roles WHERE rolname LIKE $1 || '\\_%'")
            .bind(&name)
            .fetch_all(&mut raw)
            .await
            .unwrap();
    for role in left {
        raw.execute(AssertSqlSafe(format!("DROP ROLE {role}"))).await.unwrap();
    }
}

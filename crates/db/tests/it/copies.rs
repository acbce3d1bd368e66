//! An archive becomes another organization's, where a service has several databases: what only one organization may have is
//! looked for in all of them.

use futures_util::future::BoxFuture;
use nitejar_common::RequestCtx;
use nitejar_common::clock::{SystemClock, system};
use nitejar_common::error::Result;
use nitejar_common::id::OrgId;
use nitejar_common::secret::Secret;
use nitejar_db::archive::Adopt;
use nitejar_db::life::NothingElse;
use nitejar_db::testing::{TestDatabase, database};
use nitejar_db::{Db, Migration, Owner, Schema, SharedTable};
use sqlx::{Connection as _, PgConnection};

use super::{notes, tenant, write};

const NAMED: Schema = Schema {
    service: "dbtest",
    control: &[Migration {
        version: 1,
        name: "names",
        sql: "CREATE TABLE control.names (text text PRIMARY KEY, org_id text NOT NULL);",
    }],
    shared: &[SharedTable { table: "names", owner: Owner::Org }],
    ..super::SCHEMA
};

struct Nothing;

impl Adopt for Nothing {
    fn adopt<'a>(&'a self, _: &'a mut PgConnection, _: &'a OrgId, _: &'a OrgId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

async fn name(keep: &TestDatabase, of: &RequestCtx, text: &str) {
    sqlx::query("INSERT INTO control.names (text, org_id) VALUES ($1, $2)")
        .bind(text)
        .bind(of.tenant().unwrap().as_str())
        .execute(&mut PgConnection::connect(&keep.handle.url).await.unwrap())
        .await
        .unwrap();
}

async fn names(keep: &TestDatabase, of: &OrgId) -> Vec<String> {
    sqlx::query_scalar("SELECT text FROM control.names WHERE org_id = $1 ORDER BY 1")
        .bind(of.as_str())
        .fetch_all(&mut PgConnection::connect(&keep.handle.url).await.unwrap())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_one_has_elsewhere_is_left_out() {
    let keep = [database(NAMED).await.unwrap(), database(NAMED).await.unwrap()];
    let mut config = keep[0].config.clone();
    config.more = [("second".to_owned(), Secret::new(&keep[1].handle.url))].into();
    let db = Db::open(&config, NAMED, system()).await.unwrap();
    let (gone, other) = (tenant(&db).await, tenant(&db).await);
    for ctx in [&gone, &other] {
        db.provision(ctx.tenant().unwrap()).await.unwrap();
    }
    let org = gone.tenant().unwrap();
    db.move_tenant(org, "").await.unwrap();
    db.move_tenant(other.tenant().unwrap(), "second").await.unwrap();
    write(&db, &gone, "a note").await;
    name(&keep[0], &gone, "taken").await;
    name(&keep[0], &gone, "free").await;
    let dir = tempfile::tempdir().unwrap();
    db.take(org, dir.path()).await.unwrap();
    db.purge(org, &NothingElse).await.unwrap();
    name(&keep[1], &other, "taken").await;

    let copy = OrgId::new(&SystemClock);
    let restored = db.restore(dir.path(), &copy, &Nothing).await.unwrap().unwrap();
    assert_eq!(restored.left_out, [("control.names".to_owned(), 1)]);
    assert_eq!(names(&keep[0], &copy).await, ["free"]);
    assert_eq!(names(&keep[1], &copy).await, [""; 0]);
    assert_eq!(names(&keep[1], other.tenant().unwrap()).await, ["taken"]);
    let copy = RequestCtx::service("dbtest", &SystemClock).for_tenant(copy);
    db.set_state(copy.tenant().unwrap(), true, 1).await.unwrap();
    assert_eq!(notes(&db, &copy).await, ["a note"]);
}

//! The database layer against a real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod copies;
mod migrator;
mod mover;
mod outbox;
mod provision;
mod purge;
mod tenant_tx;

use std::sync::Arc;

use nitejar_common::RequestCtx;
use nitejar_common::clock::{SystemClock, system};
use nitejar_common::id::OrgId;
use nitejar_db::testing::{TestDatabase, open};
use nitejar_db::{Db, Schema};

pub(crate) const SCHEMA: Schema = nitejar_db::testing::NOTES;

pub(crate) async fn db() -> (Db, TestDatabase) {
    open(SCHEMA, system()).await.unwrap()
}

pub(crate) async fn tenant(db: &Db) -> RequestCtx {
    let org = OrgId::new(&SystemClock);
    db.provision(&org).await.unwrap();
    RequestCtx::service("dbtest", &SystemClock).for_tenant(org)
}

pub(crate) async fn write(db: &Db, ctx: &RequestCtx, text: &str) {
    let mut tx = db.tenant(ctx).await.unwrap();
    sqlx::query("INSERT INTO notes VALUES ($1)").bind(text).execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
}

pub(crate) async fn notes(db: &Db, ctx: &RequestCtx) -> Vec<String> {
    let mut tx = db.tenant_read(ctx).await.unwrap();
    sqlx::query_scalar("SELECT text FROM notes ORDER BY text").fetch_all(tx.conn()).await.unwrap()
}

pub(crate) type Shared<T> = Arc<std::sync::Mutex<T>>;

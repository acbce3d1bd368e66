//! Spares, claims and migrations.

use nitejar_common::clock::{SystemClock, system};
use nitejar_common::id::OrgId;
use nitejar_common::{Code, RequestCtx};
use nitejar_db::{Db, MigrateMode, Migration, Schema};

use super::{SCHEMA, db, notes, tenant, write};

#[tokio::test]
async fn many_claims_at_once_give_each_organization_one_schema() {
    let (db, _keep) = db().await;
    let orgs: Vec<OrgId> = (0..6).map(|_| OrgId::new(&SystemClock)).collect();
    let claims = orgs.iter().chain(&orgs).chain(&orgs).map(|org| db.provision(org));
    for claim in futures_util::future::join_all(claims).await {
        claim.unwrap();
    }
    let mut numbers = std::collections::HashSet::new();
    for org in &orgs {
        let ctx = RequestCtx::service("dbtest", &SystemClock).for_tenant(org.clone());
        numbers.insert(db.tenant(&ctx).await.unwrap().number());
    }
    assert_eq!(numbers.len(), orgs.len());
}

#[tokio::test]
async fn an_unknown_organization_is_not_found() {
    let (db, _keep) = db().await;
    let ctx = RequestCtx::service("dbtest", &SystemClock);
    assert_eq!(db.tenant(&ctx).await.unwrap_err().code(), Code::Internal, "no organization at all");
    let ctx = ctx.for_tenant(OrgId::new(&SystemClock));
    assert_eq!(db.tenant(&ctx).await.unwrap_err().code(), Code::NotFound);
}

const NEWER: Schema = Schema {
    service: "dbtest",
    control: &[],
    shared: &[],
    tenant: &[
        SCHEMA.tenant[0],
        Migration { version: 2, name: "more", sql: "ALTER TABLE notes ADD COLUMN more text;" },
    ],
    private: &[],
};

#[tokio::test]
async fn a_newer_service_refuses_or_migrates_and_skips_a_busy_tenant() {
    let (db, keep) = db().await;
    let (busy, free) = (tenant(&db).await, tenant(&db).await);
    write(&db, &busy, "kept").await;
    let mut config = keep.config.clone();
    config.migrate = MigrateMode::RefusePending;
    let refused = Db::open(&config, NEWER, system()).await.unwrap_err();
    assert!(refused.log_text().contains("refuse_pending"), "{}", refused.log_text());

    // A reader of the busy tenant holds the DDL back; the others go on.
    let mut reader = db.tenant_read(&busy).await.unwrap();
    sqlx::query("SELECT text FROM notes").fetch_all(reader.conn()).await.unwrap();
    config.migrate = MigrateMode::OnStart;
    let newer = Db::open(&config, NEWER, system()).await.unwrap();
    let mut tx = newer.tenant(&free).await.unwrap();
    sqlx::query("SELECT more FROM notes").fetch_all(tx.conn()).await.unwrap();
    let mut tx = newer.tenant(&busy).await.unwrap();
    assert!(sqlx::query("SELECT more FROM notes").fetch_all(tx.conn()).await.is_err(), "not migrated yet");
    drop((tx, reader));
    // The next start takes it along: the version was kept.
    let newer = Db::open(&config, NEWER, system()).await.unwrap();
    let mut tx = newer.tenant(&busy).await.unwrap();
    sqlx::query("SELECT more FROM notes").fetch_all(tx.conn()).await.unwrap();
    assert_eq!(notes(&db, &busy).await, ["kept"]);
}

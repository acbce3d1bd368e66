//! The queue against a real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use nitejar_common::RequestCtx;
use nitejar_common::clock::{Clock as _, SystemClock, system};
use nitejar_common::id::{JobId, OrgId};
use nitejar_db::Db;
use nitejar_db::testing::{TestDatabase, open};
use nitejar_sprites::SCHEMA;
use nitejar_sprites::store::queue::{self, Ending, NewJob};

async fn tenants(count: usize) -> (Db, Vec<RequestCtx>, TestDatabase) {
    let (db, keep) = open(SCHEMA, system()).await.unwrap();
    let mut all = Vec::new();
    for _ in 0..count {
        let org = OrgId::new(&SystemClock);
        db.provision(&org).await.unwrap();
        all.push(RequestCtx::service("sprites", &SystemClock).for_tenant(org));
    }
    (db, all, keep)
}

async fn enqueue(db: &Db, ctx: &RequestCtx, count: usize) -> Vec<String> {
    let jobs: Vec<NewJob> = (0..count)
        .map(|_| NewJob {
            id: JobId::new(&SystemClock).to_string(),
            agent_id: "agent_1".into(),
            work_item_id: "work_1".into(),
        })
        .collect();
    let mut tx = db.tenant(ctx).await.unwrap();
    queue::enqueue(tx.conn(), &jobs, 5, "", "req_1", SystemClock.now()).await.unwrap();
    tx.commit().await.unwrap();
    jobs.into_iter().map(|j| j.id).collect()
}

#[tokio::test]
async fn a_tenant_with_thousands_of_jobs_does_not_make_the_others_wait() {
    let (db, all, _keep) = tenants(3).await;
    enqueue(&db, &all[0], 3000).await;
    enqueue(&db, &all[1], 1).await;
    enqueue(&db, &all[2], 5).await;
    let mut tx = db.control().await.unwrap();
    let due = queue::due(tx.conn(), "queued", SystemClock.now(), 200, 4000).await.unwrap();
    let mut each: BTreeMap<i64, usize> = BTreeMap::new();
    due.iter().for_each(|p| *each.entry(p.tenant_number).or_default() += 1);
    let mut counts: Vec<usize> = each.into_values().collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 5, 200], "everybody has a share of the first turn");
}

#[tokio::test]
async fn an_old_lease_neither_ends_nor_extends_a_job() {
    let (db, all, _keep) = tenants(1).await;
    let ctx = &all[0];
    let ids = enqueue(&db, ctx, 1).await;
    let now = SystemClock.now();
    let lease = chrono::Duration::seconds(30);
    let mut tx = db.tenant(ctx).await.unwrap();
    queue::allow(tx.conn(), &ids).await.unwrap();
    let first = queue::claim(tx.conn(), "agent_1", 9, 9, now, now + lease).await.unwrap();
    assert_eq!((first.len(), first[0].lease_epoch), (1, 1));
    assert!(
        queue::claim(tx.conn(), "agent_1", 9, 9, now, now + lease).await.unwrap().is_empty(),
        "claimed once"
    );
    // The lease ends, the job goes back and is claimed again.
    let expired = queue::lock_expired(tx.conn(), &ids, now + lease).await.unwrap();
    assert_eq!(expired.len(), 1);
    let again = Ending {
        id: ids[0].clone(),
        agent_id: "agent_1".into(),
        state: "queued".into(),
        reason: "lease_expired".into(),
        reserved: true,
        exit_code: None,
        output: String::new(),
        run_at: Some(now),
    };
    queue::finish(tx.conn(), &[again], now).await.unwrap();
    let second = queue::claim(tx.conn(), "agent_1", 9, 9, now, now + lease).await.unwrap();
    assert_eq!((second[0].lease_epoch, second[0].attempts), (2, 2));
    // The first holder comes back.
    assert!(queue::extend(tx.conn(), &ids[0], "agent_1", 1, now + lease).await.unwrap().is_none());
    assert!(queue::lock_running(tx.conn(), &ids, &[1]).await.unwrap().is_empty());
    assert!(
        queue::extend(tx.conn(), &ids[0], "agent_2", 2, now + lease).await.unwrap().is_none(),
        "another agent's"
    );
    assert!(queue::extend(tx.conn(), &ids[0], "agent_1", 2, now + lease).await.unwrap().is_some());
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn an_agent_runs_no_more_than_its_slots() {
    let (db, all, _keep) = tenants(1).await;
    let ctx = &all[0];
    let ids = enqueue(&db, ctx, 50).await;
    let mut tx = db.tenant(ctx).await.unwrap();
    queue::allow(tx.conn(), &ids).await.unwrap();
    tx.commit().await.unwrap();
    let now = SystemClock.now();
    let claim = async || {
        let mut tx = db.tenant(ctx).await.unwrap();
        let got =
            queue::claim(tx.conn(), "agent_1", 3, 8, now, now + chrono::Duration::seconds(30)).await.unwrap();
        tx.commit().await.unwrap();
        got.len()
    };
    let counts = [claim().await, claim().await, claim().await, claim().await];
    assert_eq!(counts, [3, 3, 2, 0]);
}

#[tokio::test]
async fn blocked_jobs_come_back_in_their_order() {
    let (db, all, _keep) = tenants(1).await;
    let ctx = &all[0];
    let ids = enqueue(&db, ctx, 20).await;
    let mut tx = db.tenant(ctx).await.unwrap();
    let later = SystemClock.now() + chrono::Duration::days(20);
    assert_eq!(queue::block(tx.conn(), &ids, later).await.unwrap().len(), 20);
    tx.commit().await.unwrap();
    let mut control = db.control().await.unwrap();
    assert!(queue::due(control.conn(), "blocked", SystemClock.now(), 9, 9).await.unwrap().is_empty());
    assert_eq!(
        queue::due(control.conn(), "blocked", later, 99, 99).await.unwrap().len(),
        20,
        "at the latest then"
    );
    drop(control);
    let mut tx = db.tenant(ctx).await.unwrap();
    assert_eq!(queue::unblock(tx.conn()).await.unwrap(), 20);
    tx.commit().await.unwrap();
    let mut control = db.control().await.unwrap();
    let due = queue::due(control.conn(), "queued", SystemClock.now(), 99, 99).await.unwrap();
    let mut ids = ids;
    ids.sort();
    assert_eq!(due.into_iter().map(|p| p.job_id).collect::<Vec<_>>(), ids);
}

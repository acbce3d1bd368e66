//! Quota decisions against a real PostgreSQL.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use nitejar_billing::domain::meter::Meter;
use nitejar_billing::{Quota, SCHEMA};
use nitejar_common::RequestCtx;
use nitejar_common::clock::{Clock as _, ManualClock, SystemClock};
use nitejar_common::id::OrgId;
use nitejar_db::testing::{TestDatabase, open};

struct Fixture {
    quota: Quota,
    ctx: RequestCtx,
    clock: Arc<ManualClock>,
    _keep: TestDatabase,
}

async fn fixture() -> Fixture {
    // Mid-month, so that a test of a few minutes stays in one period.
    let clock = ManualClock::new("2026-03-15T12:00:00Z".parse().unwrap());
    let (db, keep) = open(SCHEMA, clock.clone()).await.unwrap();
    let org = OrgId::new(&SystemClock);
    db.provision(&org).await.unwrap();
    let ctx = RequestCtx::service("billing", &SystemClock).for_tenant(org);
    Fixture { quota: Quota::open(db).await.unwrap(), ctx, clock, _keep: keep }
}

fn keys(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|i| format!("job_{i}")).collect()
}

const HOUR: Option<chrono::Duration> = Some(chrono::Duration::hours(1));

impl Fixture {
    async fn meter(&self) -> (i64, i64, bool, bool) {
        let mut tx = self.quota.db.tenant_read(&self.ctx).await.unwrap();
        let row: (i64, i64, bool, bool) = sqlx::query_as(
            "SELECT used, reserved, warned_at IS NOT NULL, blocked_at IS NOT NULL FROM meters WHERE meter = 'jobs' AND period = '2026-03'",
        )
        .fetch_one(tx.conn())
        .await
        .unwrap();
        row
    }

    async fn audited(&self, action: &str) -> usize {
        use nitejar_proto::audit::v1::RecordEventsRequest;
        use prost::Message as _;
        let mut tx = self.quota.db.tenant_read(&self.ctx).await.unwrap();
        let all: Vec<Vec<u8>> = sqlx::query_scalar("SELECT payload FROM outbox WHERE topic = 'audit'")
            .fetch_all(tx.conn())
            .await
            .unwrap();
        all.iter()
            .flat_map(|p| RecordEventsRequest::decode(p.as_slice()).unwrap().events)
            .filter(|e| e.action == action)
            .count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_at_once_get_exactly_the_hundred_that_there_are() {
    let f = Arc::new(fixture().await);
    let tasks = keys(0..200).into_iter().map(|key| {
        let f = Arc::clone(&f);
        tokio::spawn(
            async move { f.quota.reserve(&f.ctx, Meter::Jobs, &[key], HOUR).await.unwrap().allowed[0].1 },
        )
    });
    let allowed =
        futures_util::future::join_all(tasks).await.into_iter().filter(|r| *r.as_ref().unwrap()).count();
    assert_eq!(allowed, 100);
    assert_eq!(f.meter().await, (0, 100, true, true));
    assert_eq!((f.audited("quota.warning").await, f.audited("quota.blocked").await), (1, 1));
}

#[tokio::test]
async fn committed_once_is_counted_once_for_ever() {
    let f = fixture().await;
    f.quota.reserve(&f.ctx, Meter::Jobs, &keys(0..10), HOUR).await.unwrap();
    for _ in 0..3 {
        f.quota.commit(&f.ctx, Meter::Jobs, &keys(0..10)).await.unwrap();
    }
    assert_eq!(f.meter().await, (10, 0, false, false));
    // A late release, and a second reservation of the same job, change nothing.
    f.quota.release(&f.ctx, Meter::Jobs, &keys(0..10)).await.unwrap();
    assert!(f.quota.reserve(&f.ctx, Meter::Jobs, &keys(0..1), HOUR).await.unwrap().allowed[0].1);
    assert_eq!(f.meter().await, (10, 0, false, false));
    // One that was never reserved, or expired, still counts: the work was done.
    f.quota.commit(&f.ctx, Meter::Jobs, &keys(50..51)).await.unwrap();
    assert_eq!(f.meter().await, (11, 0, false, false));
}

#[tokio::test]
async fn released_units_can_be_taken_again() {
    let f = fixture().await;
    let first = f.quota.reserve(&f.ctx, Meter::Jobs, &keys(0..120), HOUR).await.unwrap();
    assert_eq!(first.allowed.iter().filter(|a| a.1).count(), 100);
    f.quota.release(&f.ctx, Meter::Jobs, &keys(0..30)).await.unwrap();
    f.quota.release(&f.ctx, Meter::Jobs, &keys(0..30)).await.unwrap();
    assert_eq!(f.meter().await.1, 70);
    let again = f.quota.reserve(&f.ctx, Meter::Jobs, &keys(100..140), HOUR).await.unwrap();
    assert_eq!(again.allowed.iter().filter(|a| a.1).count(), 30);
}

#[tokio::test]
async fn agents_are_held_while_they_exist_whatever_the_month() {
    let f = fixture().await;
    let one = |name: &str| vec![name.to_owned()];
    assert!(f.quota.reserve(&f.ctx, Meter::Agents, &one("agent_1"), None).await.unwrap().allowed[0].1);
    f.clock.advance(chrono::Duration::days(40));
    assert!(!f.quota.reserve(&f.ctx, Meter::Agents, &one("agent_2"), None).await.unwrap().allowed[0].1);
    assert!(
        f.quota.reserve(&f.ctx, Meter::Agents, &one("agent_1"), None).await.unwrap().allowed[0].1,
        "repeated"
    );
    f.quota.release(&f.ctx, Meter::Agents, &one("agent_1")).await.unwrap();
    assert!(f.quota.reserve(&f.ctx, Meter::Agents, &one("agent_2"), None).await.unwrap().allowed[0].1);
}

#[tokio::test]
async fn a_new_month_is_a_new_quota_and_a_late_commit_counts_in_its_own_month() {
    let f = fixture().await;
    f.quota.reserve(&f.ctx, Meter::Jobs, &keys(0..100), HOUR).await.unwrap();
    f.clock.set("2026-04-01T00:00:00Z".parse().unwrap());
    assert!(f.quota.reserve(&f.ctx, Meter::Jobs, &keys(100..101), HOUR).await.unwrap().allowed[0].1);
    f.quota.commit(&f.ctx, Meter::Jobs, &keys(0..101)).await.unwrap();
    let mut tx = f.quota.db.tenant_read(&f.ctx).await.unwrap();
    let used: Vec<(String, i64, i64)> =
        sqlx::query_as("SELECT period, used, reserved FROM meters WHERE meter = 'jobs' ORDER BY period")
            .fetch_all(tx.conn())
            .await
            .unwrap();
    assert_eq!(used, [("2026-03".to_owned(), 100, 0), ("2026-04".to_owned(), 1, 0)]);
}

#[tokio::test]
async fn api_calls_are_leased_settled_and_given_back() {
    let f = fixture().await;
    let lease = f.quota.lease_api_calls(&f.ctx, "", 0, true).await.unwrap();
    assert_eq!(lease.granted, 1000);
    for _ in 0..2 {
        f.quota.lease_api_calls(&f.ctx, &lease.id, 7, false).await.unwrap();
    }
    let mut tx = f.quota.db.tenant_read(&f.ctx).await.unwrap();
    let row: (i64, i64) = sqlx::query_as("SELECT used, reserved FROM meters WHERE meter = 'api_calls'")
        .fetch_one(tx.conn())
        .await
        .unwrap();
    assert_eq!(row, (7, 0), "settling twice counts once");
    assert!(f.clock.now() < lease.expires_at);
}

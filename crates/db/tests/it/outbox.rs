//! Nothing is lost, nothing is out of order, nothing holds back others.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use nitejar_common::RequestCtx;
use nitejar_common::clock::{Clock as _, ManualClock, SystemClock};
use nitejar_db::outbox::{Deliver, Delivery, Failure, OutboxMessage, Relay, push};
use nitejar_db::testing::open;

use super::{SCHEMA, Shared, tenant};

/// Takes everything but what it is told to refuse.
#[derive(Default)]
struct Receiver {
    taken: Shared<Vec<String>>,
    refuse: Shared<Vec<&'static str>>,
    permanently: bool,
}

impl Deliver for Receiver {
    fn deliver<'a>(&'a self, _: &'a RequestCtx, batch: &'a [OutboxMessage]) -> BoxFuture<'a, Vec<Delivery>> {
        let refused = self.refuse.lock().unwrap().clone();
        let results = batch.iter().map(|m| {
            let text = String::from_utf8(m.payload.clone()).unwrap();
            if refused.contains(&m.key.as_str()) {
                return Err(Failure { detail: "no".into(), permanent: self.permanently, retry_after: None });
            }
            self.taken.lock().unwrap().push(text);
            Ok(())
        });
        Box::pin(std::future::ready(results.collect()))
    }
}

async fn send(db: &nitejar_db::Db, ctx: &RequestCtx, clock: &ManualClock, key: &str, texts: &[&str]) {
    let mut tx = db.tenant(ctx).await.unwrap();
    for text in texts {
        push(tx.conn(), ctx, clock, "test", key, text.as_bytes()).await.unwrap();
    }
    tx.commit().await.unwrap();
}

async fn drain(relay: &Relay) {
    while relay.turn().await.unwrap() {}
}

#[tokio::test]
async fn messages_come_in_order_and_a_failing_key_holds_back_only_itself() {
    let clock = ManualClock::new(SystemClock.now());
    let (db, _keep) = open(SCHEMA, clock.clone()).await.unwrap();
    let ctx = tenant(&db).await;
    let receiver = Arc::new(Receiver { refuse: Arc::new(Mutex::new(vec!["bad"])), ..Receiver::default() });
    let relay = Relay::new(db.clone(), "dbtest").topic("test", receiver.clone());
    send(&db, &ctx, &clock, "bad", &["b1", "b2"]).await;
    send(&db, &ctx, &clock, "good", &["g1", "g2", "g3"]).await;
    drain(&relay).await;
    assert_eq!(*receiver.taken.lock().unwrap(), ["g1", "g2", "g3"]);
    // Later ones of the failing key wait for it, even when they are new.
    receiver.refuse.lock().unwrap().clear();
    send(&db, &ctx, &clock, "bad", &["b3"]).await;
    drain(&relay).await;
    assert_eq!(receiver.taken.lock().unwrap().len(), 3, "still waiting for its time");
    clock.advance(chrono::Duration::seconds(5));
    drain(&relay).await;
    assert_eq!(receiver.taken.lock().unwrap()[3..], ["b1", "b2", "b3"]);
}

#[tokio::test]
async fn a_relay_that_dies_after_delivery_delivers_again_and_one_that_dies_before_loses_nothing() {
    let clock = ManualClock::new(SystemClock.now());
    let (db, _keep) = open(SCHEMA, clock.clone()).await.unwrap();
    let ctx = tenant(&db).await;
    let receiver = Arc::new(Receiver::default());
    let relay = Relay::new(db.clone(), "dbtest").topic("test", receiver.clone());
    send(&db, &ctx, &clock, "k", &["one", "two"]).await;
    // Dropped at ever later await points: as kill -9 would.
    for polls in 0..40 {
        let mut turn = std::pin::pin!(relay.turn());
        for _ in 0..polls {
            let waker = std::task::Waker::noop();
            if turn.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_ready() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
    clock.advance(chrono::Duration::seconds(200));
    drain(&relay).await;
    let taken = receiver.taken.lock().unwrap().clone();
    assert!(taken.contains(&"one".to_owned()) && taken.contains(&"two".to_owned()), "{taken:?}");
    let before = taken.len();
    clock.advance(chrono::Duration::seconds(2000));
    drain(&relay).await;
    assert_eq!(receiver.taken.lock().unwrap().len(), before, "and then it is gone");
}

#[tokio::test]
async fn a_permanent_failure_is_kept_as_dead_and_lets_the_next_pass() {
    let clock = ManualClock::new(SystemClock.now());
    let (db, _keep) = open(SCHEMA, clock.clone()).await.unwrap();
    let ctx = tenant(&db).await;
    let receiver = Arc::new(Receiver {
        refuse: Arc::new(Mutex::new(vec!["k"])),
        permanently: true,
        ..Receiver::default()
    });
    let relay = Relay::new(db.clone(), "dbtest").topic("test", receiver.clone());
    send(&db, &ctx, &clock, "k", &["poison"]).await;
    drain(&relay).await;
    receiver.refuse.lock().unwrap().clear();
    send(&db, &ctx, &clock, "k", &["next"]).await;
    drain(&relay).await;
    assert_eq!(*receiver.taken.lock().unwrap(), ["next"]);
    let mut tx = db.tenant(&ctx).await.unwrap();
    let dead: Vec<(String, String)> = sqlx::query_as(
        "SELECT convert_from(payload, 'UTF8'), last_error FROM outbox WHERE dead_at IS NOT NULL",
    )
    .fetch_all(tx.conn())
    .await
    .unwrap();
    assert_eq!(dead, [("poison".to_owned(), "no".to_owned())]);
}

#[tokio::test]
async fn what_is_rolled_back_is_never_sent() {
    let clock = ManualClock::new(SystemClock.now());
    let (db, _keep) = open(SCHEMA, clock.clone()).await.unwrap();
    let ctx = tenant(&db).await;
    let receiver = Arc::new(Receiver::default());
    let relay = Relay::new(db.clone(), "dbtest").topic("test", receiver.clone());
    let mut tx = db.tenant(&ctx).await.unwrap();
    push(tx.conn(), &ctx, &*clock, "test", "k", b"never").await.unwrap();
    drop(tx);
    send(&db, &ctx, &clock, "k", &["sent"]).await;
    drain(&relay).await;
    assert_eq!(*receiver.taken.lock().unwrap(), ["sent"]);
}

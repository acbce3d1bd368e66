//! Secrets have versions, and the keys above them change while everything runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nitejar_common::id::OrgId;
use nitejar_common::secret::Secret;
use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person, test_tweaks};
use nitejar_tenancy::domain::envelope::MasterKey;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::world::finished;

struct Org {
    owner: Client,
    id: String,
    agent: String,
}

impl Org {
    async fn new(stack: &TestStack) -> Self {
        let (owner, _) = person(&stack.operator().unwrap(), "owner").await.unwrap();
        let id = organization(&owner).await.unwrap();
        let config = json!({ "command": "printf '%s' \"$TOKEN\" | sha256sum > $NITEJAR_RESULT", "secrets": ["TOKEN"] });
        let wish = json!({ "handle": "worker", "config": config });
        owner.put(&format!("/v1/orgs/{id}/secrets/TOKEN"), &json!({ "value": "first" })).await.unwrap();
        let agent = owner.post(&format!("/v1/orgs/{id}/agents"), &wish).await.unwrap();
        Self { owner, agent: text(&agent, "id"), id }
    }

    fn at(&self, rest: &str) -> String {
        format!("/v1/orgs/{}{rest}", self.id)
    }

    async fn set(&self, value: &str) -> Value {
        self.owner.put(&self.at("/secrets/TOKEN"), &json!({ "value": value })).await.unwrap()
    }

    /// What a job gets, as the SHA-256 of it: the value itself is masked.
    async fn used(&self) -> String {
        let item = json!({ "agent_id": self.agent, "title": "t" });
        let item = self.owner.post(&self.at("/work-items"), &item).await.unwrap();
        let job = finished(&self.owner, &self.id, item["job_ids"][0].as_str().unwrap()).await;
        text(&job, "output").split_whitespace().next().unwrap_or_default().to_owned()
    }
}

fn digest(value: &str) -> String {
    hex::encode(nitejar_common::key::sha256(value))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_value_is_taken_back_and_none_is_shown() {
    let stack = TestStack::start().await.unwrap();
    let org = Org::new(&stack).await;
    assert_eq!(org.used().await, digest("first"));
    for i in 2..=13 {
        assert_eq!(org.set(&format!("value {i}")).await["version"], i);
    }
    let kept = org.owner.get(&org.at("/secrets/TOKEN/versions")).await.unwrap();
    let numbers: Vec<i64> =
        kept["versions"].as_array().unwrap().iter().map(|v| v["version"].as_i64().unwrap()).collect();
    assert_eq!(numbers, (3..=13).rev().collect::<Vec<_>>());
    assert!(!kept.to_string().contains("value "), "{kept}");
    let restore = org.at("/secrets/TOKEN:restore");
    let back = org.owner.post(&restore, &json!({ "version": 4 })).await.unwrap();
    assert_eq!(back["version"], 14);
    assert_eq!(org.used().await, digest("value 4"));
    // What a job has a value of already would keep it from starting.
    for name in ["PATH", "HOME", "LD_PRELOAD", "NITEJAR_JOB_ID"] {
        let at = org.at(&format!("/secrets/{name}"));
        let answer = org.owner.call(Method::PUT, &at, Some(&json!({ "value": "x" }))).await.unwrap();
        assert_eq!((answer.status, &answer.body["errors"][0]["pointer"]), (400, &json!("/name")), "{name}");
    }
    // Bytes count: no variable of an environment has room for four times as many.
    for (value, status) in [("x".repeat(32 * 1024), 200), ("\u{1f600}".repeat(8 * 1024 + 1), 400)] {
        let at = org.at("/secrets/LONG");
        let answer = org.owner.call(Method::PUT, &at, Some(&json!({ "value": value }))).await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    for (version, status) in [(2, 404), (99, 404), (0, 400)] {
        let answer =
            org.owner.call(Method::POST, &restore, Some(&json!({ "version": version }))).await.unwrap();
        assert_eq!(answer.status, status, "{version}");
    }
    // Who gets it is listed, and it goes with all its versions.
    let users = org.owner.get(&org.at("/secrets/TOKEN/agents")).await.unwrap();
    assert_eq!(users["agents"][0]["id"], org.agent.as_str());
    assert_eq!(org.owner.get(&org.at("/secrets/OTHER/agents")).await.unwrap()["agents"], json!([]));
    org.owner.delete(&org.at("/secrets/TOKEN")).await.unwrap();
    let gone = org.owner.call(Method::GET, &org.at("/secrets/TOKEN/versions"), None).await.unwrap();
    assert_eq!(gone.status, 404);
    stack.stop().await.unwrap();
}

/// Sets and uses secrets, over and over, until told to stop; every answer must be good.
fn load(org: Arc<Org>, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<u32> {
    tokio::spawn(async move {
        let mut turns = 0;
        while !stop.load(Ordering::Relaxed) {
            let value = format!("load {turns}");
            org.set(&value).await;
            if turns % 4 == 0 {
                assert_eq!(org.used().await, digest(&value));
            }
            turns += 1;
        }
        turns
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_key_is_replaced_under_load_and_the_old_one_opens_nothing() {
    let stack = TestStack::start().await.unwrap();
    let org = Arc::new(Org::new(&stack).await);
    let stop = Arc::new(AtomicBool::new(false));
    let busy = load(Arc::clone(&org), Arc::clone(&stop));
    let mut last = json!(null);
    for i in 2..=8 {
        last = org.owner.post(&org.at("/secrets:rotateDataKey"), &json!({})).await.unwrap();
        assert_eq!(last["data_key"], i, "{last}");
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(busy.await.unwrap() > 3, "there was no load");
    assert!(last["resealed"].as_u64().unwrap() > 1, "{last}");
    let mut db = stack.database("tenancy").await.unwrap();
    let number: i64 = sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
        .bind(&org.id)
        .fetch_one(&mut db)
        .await
        .unwrap();
    let sql = format!(
        "SELECT (SELECT count(*) FROM t_{number}.data_keys), (SELECT count(*) FROM t_{number}.secrets WHERE data_key <> 8) + \
         (SELECT count(*) FROM t_{number}.secret_versions WHERE data_key <> 8)"
    );
    let counts: (i64, i64) = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut db).await.unwrap();
    assert_eq!(counts, (1, 0), "one key, and nothing sealed with another");
    org.set("last").await;
    assert_eq!(org.used().await, digest("last"));
    stack.stop().await.unwrap();
}

/// A change of the master key as the configuration describes it: every replica accepts the new one, then one after the other
/// wraps with it, then the old one goes.
#[tokio::test(flavor = "multi_thread")]
async fn the_master_key_is_replaced_under_load_and_the_old_one_opens_nothing() {
    let new = nitejar_common::token::generate_key().0.expose().to_owned();
    let accepted = new.clone();
    let mut stack =
        TestStack::start_changed(test_tweaks(), |keys| keys.former_masters.push(accepted)).await.unwrap();
    let operator = stack.operator().unwrap();
    let mut orgs = Vec::new();
    for _ in 0..5 {
        orgs.push(Arc::new(Org::new(&stack).await));
    }
    let key = |text: &str| MasterKey::parse(&Secret::new(text)).unwrap();
    let (old_key, new_key) = (key(&stack.keys.master), key(&new));
    let progress = "/v1/operator/master-key-rotation";
    let before = operator.get(progress).await.unwrap();
    assert_eq!(before, json!({ "master_key_id": old_key.id(), "wrapped": 5, "remaining": 0 }));

    // Mails that could not be sent hold links and addresses.
    let mut db = stack.database("tenancy").await.unwrap();
    let number: i64 = sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
        .bind(&orgs[0].id)
        .fetch_one(&mut db)
        .await
        .unwrap();
    let outboxes = [format!("t_{number}.outbox"), "control.outbox".to_owned()];
    for outbox in &outboxes {
        let sql = format!(
            "INSERT INTO {outbox} (id, topic, key, payload, request_id, trace, created_at, next_attempt_at, dead_at) \
             VALUES ('out_dead', 'mail', 'k', $1, '', '', now(), now(), now())"
        );
        let sealed = old_key.seal_mail(b"a dead mail").unwrap();
        sqlx::query(AssertSqlSafe(sql)).bind(sealed).execute(&mut db).await.unwrap();
    }

    let stop = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = orgs.iter().map(|org| load(Arc::clone(org), Arc::clone(&stop))).collect();
    // In the middle of the rollout: a replica whose newest key is the new one, beside one whose newest is the old one.
    let mut keys = stack.keys.clone();
    keys.former_masters = vec![std::mem::replace(&mut keys.master, new.clone())];
    let second = operator.at(&stack.another_tenancy(&keys).await.unwrap());
    let done = second.until(progress, 60, "all data keys", |v| v["remaining"] == 0).await.unwrap();
    assert_eq!(done, json!({ "master_key_id": new_key.id(), "wrapped": 5, "remaining": 0 }));
    for outbox in &outboxes {
        let sql = format!("SELECT payload FROM {outbox} WHERE id = 'out_dead'");
        let sealed: Vec<u8> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut db).await.unwrap();
        assert!(old_key.open_mail(&sealed).is_err(), "{outbox}: the old key still opens a mail");
        assert_eq!(new_key.open_mail(&sealed).unwrap().as_slice(), b"a dead mail");
    }
    // The replica of before does not undo it.
    tokio::time::sleep(std::time::Duration::from_secs(12)).await;
    assert_eq!(second.get(progress).await.unwrap()["remaining"], 0);
    // A third one, that knows the old key no more.
    keys.former_masters.clear();
    let third = stack.another_tenancy(&keys).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    for busy in busy {
        assert!(busy.await.unwrap() > 3, "there was no load");
    }
    for org in &orgs {
        let client = org.owner.at(&third);
        client.put(&org.at("/secrets/TOKEN"), &json!({ "value": "after" })).await.unwrap();

        assert_eq!(org.used().await, digest("after"));
        let number: i64 = sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
            .bind(&org.id)
            .fetch_one(&mut db)
            .await
            .unwrap();
        let sql = format!("SELECT wrapped FROM t_{number}.data_keys");
        let wrapped: Vec<Vec<u8>> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut db).await.unwrap();
        assert_eq!(wrapped.len(), 1);
        let id: OrgId = org.id.parse().unwrap();
        assert!(old_key.unwrap_data_key(&id, &wrapped[0]).is_err(), "the old key still opens it");
        assert!(new_key.unwrap_data_key(&id, &wrapped[0]).is_ok());
    }
    stack.stop().await.unwrap();
}

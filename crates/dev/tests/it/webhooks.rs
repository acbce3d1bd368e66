//! GitHub's webhooks: signed or refused, once, to the right organization only.

use nitejar_dev::client::text;
use nitejar_dev::test_stack::{TestStack, connect_github};
use serde_json::{Value, json};

use crate::world::World;

fn issue(installation: u64, id: u64) -> Value {
    json!({
        "action": "opened", "installation": { "id": installation }, "sender": { "login": "a", "type": "User" },
        "repository": { "id": 1, "full_name": "evil/repo" },
        "issue": { "id": id, "number": 1, "title": "attack", "body": "b", "html_url": "https://x", "labels": [] },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn unsigned_wrongly_signed_replayed_and_foreign_webhooks() {
    let stack = TestStack::start().await.unwrap();
    let github = stack.github_client().unwrap();
    let w = World::new(&stack).await;
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", w.org);
    let bound = w.owner.get(&at("/integrations")).await.unwrap()["integrations"][0]["installation_id"]
        .as_u64()
        .unwrap();
    let deliver = async |payload: &Value, signature: &str, id: Option<&str>| {
        let body =
            json!({ "event": "issues", "payload": payload, "signature": signature, "delivery_id": id });
        github.post("/_fake/deliver", &body).await.unwrap()
    };
    for signature in ["none", "wrong"] {
        let refused = deliver(&issue(bound, 1), signature, None).await;
        assert_eq!(
            (refused["status"].as_u64(), &refused["answer"]["code"]),
            (Some(401), &json!("invalid_signature")),
            "{refused}"
        );
    }
    let unknown = deliver(&issue(999_999, 2), "right", None).await;
    assert_eq!(unknown["status"], 202, "kept, and nothing comes of it");
    let items = async || {
        w.owner
            .all(&at("/work-items"), "work_items")
            .await
            .unwrap()
            .into_iter()
            .filter(|i| i["source"] == "github")
            .count()
    };
    let first = deliver(&issue(bound, 3), "right", Some("delivery-1")).await;
    assert_eq!(first["status"], 202);
    w.owner
        .until(&at("/work-items"), 20, "the work", |v| v["work_items"][0]["title"] == "attack")
        .await
        .unwrap();
    let replay = deliver(&issue(bound, 3), "right", Some("delivery-1")).await;
    assert_eq!((replay["status"].as_u64(), &replay["answer"]["result"]), (Some(200), &json!("duplicate")));
    // The same happening under another delivery id.
    assert_eq!(deliver(&issue(bound, 3), "right", Some("delivery-2")).await["status"], 202);
    deliver(&issue(bound, 4), "right", None).await;
    w.owner
        .until(&at("/work-items"), 20, "the second", |v| v["work_items"].as_array().unwrap().len() == 3)
        .await
        .unwrap();
    assert_eq!(items().await, 2);
    // Another organization's installation makes work there only.
    let other = World::new(&stack).await;
    let theirs = connect_github(&other.owner, &github, &other.org, &["o/r".to_owned()]).await.unwrap();
    deliver(&issue(theirs, 5), "right", None).await;
    other
        .owner
        .until(&format!("/v1/orgs/{}/work-items", other.org), 20, "their work", |v| {
            v["work_items"][0]["title"] == "attack"
        })
        .await
        .unwrap();
    assert_eq!(items().await, 2);
    // Uninstalled: no work any more.
    let gone = json!({ "action": "deleted", "installation": { "id": bound } });
    let body = json!({ "event": "installation", "payload": gone });
    github.post("/_fake/deliver", &body).await.unwrap();
    w.owner
        .until(&at("/integrations"), 20, "its end", |v| v["integrations"].as_array().unwrap().is_empty())
        .await
        .unwrap();
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_survives_what_github_may_do() {
    let stack = TestStack::start().await.unwrap();
    let github = stack.github_client().unwrap();
    let w = World::new(&stack).await;
    let integration =
        &w.owner.get(&format!("/v1/orgs/{}/integrations", w.org)).await.unwrap()["integrations"][0];
    let repository = text(&json!({ "r": integration["repositories"][0] }), "r");
    for fault in ["lost_answer", "status:502", "reset", "unauthorized", "rate_limit"] {
        github
            .post(
                "/_fake/faults",
                &json!({ "path": "/comments", "method": "POST", "kind": fault, "times": 1 }),
            )
            .await
            .unwrap();
        let wish = json!({ "installation_id": integration["installation_id"], "repository": repository, "title": fault });
        let opened = github.post("/_fake/issues", &wish).await.unwrap();
        let number = opened["number"].to_string();
        let comments = |v: &Value| v["issues"][&repository][&number].as_array().map_or(0, Vec::len);
        github.until("/_fake/state", 40, fault, |v| comments(v) > 0).await.unwrap();
        // Once the outbox holds nothing more of it, no second one can come.
        let mut raw = stack.database("sprites").await.unwrap();
        let number: i64 = sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
            .bind(&w.org)
            .fetch_one(&mut raw)
            .await
            .unwrap();
        let left = format!("SELECT count(*) FROM t_{number}.outbox WHERE topic = 'github.comment'");
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(left.clone()))
            .fetch_one(&mut raw)
            .await
            .unwrap()
            > 0
        {
            assert!(std::time::Instant::now() < until, "{fault}: the reply is still in the outbox");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let state = github.get("/_fake/state").await.unwrap();
        assert_eq!(comments(&state), 1, "{fault}: {state}");
    }
    stack.stop().await.unwrap();
}

/// Every example payload that GitHub publishes: none may hurt us, whatever it holds.
#[tokio::test(flavor = "multi_thread")]
async fn all_of_githubs_own_examples_are_taken_in() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../testkit/npm/node_modules/@octokit/webhooks-examples/api.github.com/index.json"
    );
    let Ok(text) = std::fs::read_to_string(file) else {
        assert!(std::env::var_os("CI").is_none(), "{file} is missing: cargo xtask test --only npm");
        return;
    };
    let examples: Value = serde_json::from_str(&text).unwrap();
    let stack = TestStack::start().await.unwrap();
    let github = stack.github_client().unwrap();
    let mut sent = 0;
    for kind in examples.as_array().unwrap() {
        for payload in kind["examples"].as_array().unwrap() {
            let body = json!({ "event": kind["name"], "payload": payload });
            let answer = github.post("/_fake/deliver", &body).await.unwrap();
            assert_eq!(answer["status"], 202, "{}: {answer}", kind["name"]);
            sent += 1;
        }
    }
    assert!(sent > 300, "{sent}");
    // All are worked off: none hangs, none is given up, none is unreadable.
    let mut raw = stack.database("sprites").await.unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let open: i64 =
            sqlx::query_scalar("SELECT count(*) FROM control.github_deliveries WHERE done_at IS NULL")
                .fetch_one(&mut raw)
                .await
                .unwrap();
        if open == 0 {
            break;
        }
        assert!(std::time::Instant::now() < until, "{open} webhooks are not worked off");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let bad: Vec<(String, String)> = sqlx::query_as(
        "SELECT event, result FROM control.github_deliveries WHERE result IN ('malformed', 'given up')",
    )
    .fetch_all(&mut raw)
    .await
    .unwrap();
    assert!(bad.is_empty(), "{bad:?}");
    stack.stop().await.unwrap();
}

//! GitHub's webhooks: signed or refused, once, to the right organization only.

use nitejar_dev::client::{Client, text};
use nitejar_dev::settings::Tweaks;
use nitejar_dev::test_stack::{TestStack, connect_github, test_tweaks};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

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

/// Strangers whose bodies trickle in hold what they sent, and no place that GitHub needs.
#[tokio::test(flavor = "multi_thread")]
async fn slow_strangers_keep_neither_webhooks_nor_reports_of_leaks_out() {
    let stack = TestStack::start().await.unwrap();
    let (github, nobody) = (stack.github_client().unwrap(), stack.operator().unwrap().with_key(""));
    let addr = stack.places.main["gateway"];
    let signed =
        "X-Hub-Signature-256: sha256=00\r\nGithub-Public-Key-Identifier: x\r\nGithub-Public-Key-Signature: x";
    let mut slow = Vec::new();
    for path in ["/webhooks/github", "/webhooks/github/secret-scanning"] {
        for _ in 0..40 {
            let mut socket = TcpStream::connect(addr).await.unwrap();
            let head =
                format!("POST {path} HTTP/1.1\r\nHost: x\r\n{signed}\r\nContent-Length: 1000\r\n\r\n[");
            socket.write_all(head.as_bytes()).await.unwrap();
            slow.push(socket);
        }
    }
    // Until all have arrived.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    for id in 0..3 {
        let body = json!({ "event": "issues", "payload": issue(999_999, id) });
        let delivered = github.post("/_fake/deliver", &body).await.unwrap();
        assert_eq!(delivered["status"], 202, "{delivered}");
        // It is looked at: a refusal by the service that knows GitHub's keys.
        assert_eq!(report(&nobody).await, (401, "invalid_signature".to_owned()));
    }
    drop(slow);
    stack.stop().await.unwrap();
}

/// A report of a leak that nobody signed.
async fn report(client: &Client) -> (u16, String) {
    let request = client
        .request(Method::POST, "/webhooks/github/secret-scanning")
        .header("github-public-key-identifier", "unknown")
        .header("github-public-key-signature", "bm8gc2lnbmF0dXJl")
        .body("[]");
    let answer = Client::send(request).await.unwrap();
    (answer.status, text(&answer.body, "code"))
}

/// Who is refused too often is told to wait, at both doors; what GitHub signed is taken also from the same address.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refused_webhooks_is_held_up_and_no_signed_one_with_it() {
    let stack =
        TestStack::start_with(Tweaks { rate_limits: [1_000_000, 1_000_000, 20], ..test_tweaks() }).await;
    let stack = stack.unwrap();
    let (github, nobody) = (stack.github_client().unwrap(), stack.operator().unwrap().with_key(""));
    let deliver = async |id: u64, signature: &str| {
        let body = json!({ "event": "issues", "payload": issue(999_999, id), "signature": signature });
        github.post("/_fake/deliver", &body).await.unwrap()
    };
    // Any number that are signed count nothing.
    for id in 0..40 {
        assert_eq!(deliver(id, "right").await["status"], 202);
    }
    let mut refused = Vec::new();
    for id in 40..100 {
        refused.push(deliver(id, if id % 2 == 0 { "wrong" } else { "none" }).await["status"].clone());
    }
    let invalid = refused.iter().filter(|status| **status == 401).count();
    assert!((10..=21).contains(&invalid), "{refused:?}");
    assert_eq!(refused.last().unwrap(), 429);
    assert_eq!(report(&nobody).await, (429, "rate_limited".to_owned()));
    // Also in the midst of it.
    let wrong = futures_util::future::join_all((100..130).map(|id| deliver(id, "wrong")));
    let right = futures_util::future::join_all((130..160).map(|id| deliver(id, "right")));
    let (wrong, right) = futures_util::future::join(wrong, right).await;
    assert!(wrong.iter().all(|answer| answer["status"] == 429), "{wrong:?}");
    assert!(right.iter().all(|answer| answer["status"] == 202), "{right:?}");
    stack.stop().await.unwrap();
}

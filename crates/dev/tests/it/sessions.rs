//! Signing in by a link, sessions in cookies, and what thieves of links, cookies and pages can't do.

use std::time::Duration;

use nitejar_dev::client::{Client, text};
use nitejar_dev::settings::Tweaks;
use nitejar_dev::test_stack::{TestStack, organization, test_tweaks};
use nitejar_testkit::mailbox::Fault;
use reqwest::Method;
use serde_json::{Value, json};

use crate::people::{Browser, mail, sign_in, token};

async fn ended(browser: &mut Browser, path: &str) {
    // Told to every gateway within a second.
    for _ in 0..40 {
        if browser.get(path).await.status == 401 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the session lives on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_works_once_in_the_browser_that_asked_and_says_nothing_of_who_is_known() {
    let stack = TestStack::start().await.unwrap();
    let mut ada = Browser::new(&stack);
    let first = ada.post("/v1/sign-in", json!({ "email": "Ada@Example.com" })).await;
    assert_eq!(first.status, 200);
    assert_eq!(
        first.body.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["expires_at"],
        "no secret in a body"
    );
    let link = token(&stack, "ada@example.com", 1).await;

    // A thief of the mail has another browser, or none; a scanner that opens links has none either.
    let mut thief = Browser::new(&stack);
    for browser in [&mut thief.clone(), &mut thief] {
        let stolen = browser.post("/v1/sign-in:finish", json!({ "token": link })).await;
        assert_eq!((stolen.status, text(&stolen.body, "code")), (409, "sign_in_link_unusable".into()));
        browser.post("/v1/sign-in", json!({ "email": "thief@example.com" })).await;
    }
    let done = ada.post("/v1/sign-in:finish", json!({ "token": link })).await;
    assert_eq!((done.status, text(&done.body["user"], "email")), (200, "ada@example.com".into()));
    assert!(done.body.get("session").is_none());
    assert_eq!(ada.get("/v1/me").await.body["name"], "ada");
    let again = ada.post("/v1/sign-in:finish", json!({ "token": link })).await;
    assert_eq!(text(&again.body, "code"), "sign_in_link_unusable");

    // A person who is known is answered like one who is not, and is the same person again.
    let mut second = Browser::new(&stack);
    let known = second.post("/v1/sign-in", json!({ "email": "ada@example.com" })).await;
    assert_eq!(known.body.as_object().unwrap().keys().collect::<Vec<_>>(), ["expires_at"]);
    let link = token(&stack, "ada@example.com", 2).await;
    let back = second.post("/v1/sign-in:finish", json!({ "token": link })).await;
    assert_eq!(back.body["user"]["id"], done.body["user"]["id"]);

    // An old link ends.
    let mut late = Browser::new(&stack);
    late.post("/v1/sign-in", json!({ "email": "ada@example.com" })).await;
    let link = token(&stack, "ada@example.com", 3).await;
    let mut raw = stack.database("tenancy").await.unwrap();
    sqlx::query("UPDATE control.sign_ins SET expires_at = now()").execute(&mut raw).await.unwrap();
    assert_eq!(late.post("/v1/sign-in:finish", json!({ "token": link })).await.status, 409);

    // No more than five links for one address from one network, whichever browser asks.
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let answer = Browser::new(&stack).post("/v1/sign-in", json!({ "email": "ada@example.com" })).await;
        statuses.push(answer.status);
    }
    assert_eq!(statuses, [200, 200, 429, 429]);

    // Nothing that is stored signs anybody in: a mail that waits is sealed.
    mail(&stack, "ada@example.com", 5).await;
    mail(&stack, "thief@example.com", 2).await;
    stack.mailbox.fault(Fault::Later);
    Browser::new(&stack).post("/v1/sign-in", json!({ "email": "waits@example.com" })).await;
    let payload: Vec<u8> = sqlx::query_scalar("SELECT payload FROM control.outbox WHERE topic = 'mail'")
        .fetch_one(&mut raw)
        .await
        .unwrap();
    assert!(!payload.windows(4).any(|w| w == b"njl_" || w == b"wait"));
    stack.mailbox.fault(Fault::TakeAndHangUp);
    mail(&stack, "waits@example.com", 2).await;
    let ids: std::collections::BTreeSet<String> =
        stack.mailbox.of("waits@example.com").into_iter().map(|m| m.message_id).collect();
    assert_eq!(ids.len(), 1, "a repetition can be told by its Message-ID");
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_and_ended_one_by_one_or_all_and_other_sites_can_use_none() {
    let stack = TestStack::start().await.unwrap();
    let (mut laptop, mut phone, mut other) =
        (Browser::new(&stack), Browser::new(&stack), Browser::new(&stack));
    sign_in(&stack, &mut laptop, "ada@example.com").await;
    sign_in(&stack, &mut phone, "ada@example.com").await;
    sign_in(&stack, &mut other, "eve@example.com").await;
    let sessions = laptop.get("/v1/me/sessions").await.body["sessions"].clone();
    let current: Vec<bool> = sessions.as_array().unwrap().iter().map(|s| s["current"] == true).collect();
    assert_eq!(current, [false, true]);
    assert_eq!(
        (text(&sessions[0], "user_agent"), text(&sessions[0], "address")),
        ("Test/1.0".into(), "127.0.0.1".into())
    );
    let phones = format!("/v1/me/sessions/{}", text(&sessions[0], "id"));
    assert_eq!(other.call(Method::DELETE, &phones, None).await.status, 404, "another person's");
    assert_eq!(phone.get("/v1/me").await.status, 200);
    assert_eq!(laptop.call(Method::DELETE, &phones, None).await.status, 200);
    ended(&mut phone, "/v1/me").await;
    assert_eq!(laptop.get("/v1/me").await.status, 200);
    // Whose session has ended signs in again with the old cookie still there.
    sign_in(&stack, &mut phone, "ada@example.com").await;

    // What another site's page sends with Ada's cookies does nothing; a key needs no such proof.
    let org = json!({ "slug": "made-by-evil", "name": "E" });
    for (name, value) in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")] {
        let request = laptop.request(Method::POST, "/v1/orgs", None).header(name, value).json(&org);
        let forged = Client::send(request).await.unwrap();
        assert_eq!((forged.status, text(&forged.body, "code")), (403, "cross_site".into()));
        let login = Browser::new(&stack).request(Method::POST, "/v1/sign-in", None).header(name, value);
        let forged = Client::send(login.json(&json!({ "email": "ada@example.com" }))).await.unwrap();
        assert_eq!(text(&forged.body, "code"), "cross_site", "nor is anybody signed in by another site");
    }
    let key = laptop.post("/v1/me/keys", json!({ "name": "cli" })).await;
    let key = laptop.client.with_key(&text(&key.body, "secret"));
    // A key can't make another one, which would outlive it; nor with somebody else's session beside it.
    let more = json!({ "name": "more" });
    let by_key = key.call(Method::POST, "/v1/me/keys", Some(&more)).await.unwrap();
    assert_eq!((by_key.status, text(&by_key.body, "code")), (403, "permission_denied".into()));
    let cookie = format!("__Host-nj_session={}", other.session());
    let borrowed = key.request(Method::POST, "/v1/me/keys").header("cookie", cookie).json(&more);
    assert_eq!(Client::send(borrowed).await.unwrap().status, 403);
    let request = key.request(Method::POST, "/v1/orgs").header("origin", "https://evil.example");
    assert_eq!(Client::send(request.json(&org)).await.unwrap().status, 200);
    let keys = key.get("/v1/me/keys").await.unwrap();
    assert_eq!((keys["keys"].as_array().unwrap().len(), text(&keys["keys"][0], "name")), (1, "cli".into()));

    // Out here, then everywhere; keys stay until they are revoked themselves.
    let old = laptop.clone();
    assert_eq!(laptop.post("/v1/me:signOut", json!({})).await.status, 200);
    assert_eq!(laptop.session(), "");
    ended(&mut old.clone(), "/v1/me").await;
    sign_in(&stack, &mut laptop, "ada@example.com").await;
    let everywhere = laptop.post("/v1/me:signOutEverywhere", json!({})).await;
    assert_eq!(everywhere.body["ended"], 2);
    ended(&mut phone, "/v1/me").await;
    assert_eq!(other.get("/v1/me").await.status, 200);
    assert_eq!(key.get("/v1/me").await.unwrap()["email"], "ada@example.com");
    let id = text(&keys["keys"][0], "id");
    key.delete(&format!("/v1/me/keys/{id}")).await.unwrap();
    let until = tokio::time::Instant::now() + Duration::from_secs(1);
    while key.call(Method::GET, "/v1/me", None).await.unwrap().status != 401 {
        assert!(tokio::time::Instant::now() < until);
    }
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_sessions_are_replaced_and_a_stolen_one_ends_both() {
    let mut stack = TestStack::start_with(Tweaks { rotate_seconds: 1, ..test_tweaks() }).await.unwrap();
    let second = stack.another_gateway().await.unwrap();
    let mut ada = Browser::new(&stack);
    sign_in(&stack, &mut ada, "ada@example.com").await;
    let key = ada.post("/v1/me/keys", json!({ "name": "k" })).await;
    let org = organization(&ada.client.with_key(&text(&key.body, "secret"))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;

    // A question that is asked anew: the answer brings a new secret. What was under way with the old one goes on.
    let mut old = ada.clone();
    assert_eq!(ada.get(&format!("/v1/orgs/{org}")).await.status, 200);
    assert_ne!(ada.session(), old.session());
    assert_eq!(old.get(&format!("/v1/orgs/{org}/members")).await.status, 200);
    let mut raw = stack.database("tenancy").await.unwrap();
    let confirmed = "SELECT count(*) FROM control.sessions WHERE confirmed_at IS NOT NULL";
    let count: i64 = sqlx::query_scalar(confirmed).fetch_one(&mut raw).await.unwrap();
    assert_eq!(count, 0, "the old one does not confirm the new one");

    // A request that comes again with the new secret is the same request.
    let mut made = Vec::new();
    for browser in [&old, &ada] {
        let wish = json!({ "name": "once" });
        let request =
            browser.request(Method::POST, "/v1/me/keys", Some(&wish)).header("idempotency-key", "once");
        made.push(text(&Client::send(request).await.unwrap().body["key"], "id"));
        // Used, but to be taken for unused below.
        sqlx::query("UPDATE control.sessions SET confirmed_at = NULL").execute(&mut raw).await.unwrap();
    }
    assert!(!made[0].is_empty() && made[0] == made[1], "{made:?}");

    // The answer with the new secret was lost: the browser comes with the old one and gets another.
    sqlx::query("UPDATE control.sessions SET rotated_at = rotated_at - interval '6 min'")
        .execute(&mut raw)
        .await
        .unwrap();
    let mut lost = Browser { client: ada.client.at(&second), ..old.clone() };
    assert_eq!(lost.get("/v1/me").await.status, 200);
    assert!(lost.session() != old.session() && lost.session() != ada.session());
    assert_eq!(lost.get("/v1/me/sessions").await.body["sessions"][0]["current"], true);
    let count: i64 = sqlx::query_scalar(confirmed).fetch_one(&mut raw).await.unwrap();
    assert_eq!(count, 1);

    // Two minutes after the new one was used, somebody comes with the old one: one of the two is a thief.
    sqlx::query("UPDATE control.sessions SET confirmed_at = confirmed_at - interval '2 min'")
        .execute(&mut raw)
        .await
        .unwrap();
    let mut thief = Browser { client: ada.client.clone(), ..old };
    ended(&mut thief, &format!("/v1/orgs/{org}/keys")).await;
    ended(&mut lost, "/v1/me").await;
    let told =
        |v: &Value| v["events"].as_array().is_some_and(|l| l.iter().any(|e| e["action"] == "session.reused"));
    let operator = stack.operator().unwrap();
    operator.until("/v1/operator/audit-events?page_size=100", 20, "the theft", told).await.unwrap();

    // The new secret was replaced because nobody seemed to have it, and then somebody has: two hold this session.
    let mut carl = Browser::new(&stack);
    sign_in(&stack, &mut carl, "carl@example.com").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let old = carl.clone();
    assert_eq!(carl.get("/v1/me").await.status, 200);
    assert_ne!(carl.session(), old.session());
    sqlx::query("UPDATE control.sessions SET rotated_at = rotated_at - interval '6 min'")
        .execute(&mut raw)
        .await
        .unwrap();
    let mut thief = Browser { client: carl.client.at(&second), ..old };
    assert_eq!(thief.get("/v1/me").await.status, 200);
    let mut carl = Browser { client: carl.client.at(&second), ..carl };
    ended(&mut carl, "/v1/me").await;
    ended(&mut thief, "/v1/me").await;

    // Idle for too long, or too old.
    for change in ["last_seen_at = last_seen_at - interval '8 days'", "expires_at = now()"] {
        let mut ben = Browser::new(&stack);
        sign_in(&stack, &mut ben, "ben@example.com").await;
        let update = format!("UPDATE control.sessions SET {change} WHERE revoked_at IS NULL");
        sqlx::query(sqlx::AssertSqlSafe(update)).execute(&mut raw).await.unwrap();
        assert_eq!(
            Browser { client: ben.client.at(&second), ..ben }.get("/v1/me").await.status,
            401,
            "{change}"
        );
    }
    stack.stop().await.unwrap();
}

/// Makes the living session's secret old, and its use long ago; then the browser gets another and uses it.
async fn replaced(database: &mut sqlx::PgConnection, browser: &mut Browser) {
    let before = browser.session();
    // Written anew, so that no gateway keeps an answer about it.
    let older = "UPDATE control.sessions SET rotated_at = rotated_at - interval '90 days', \
                 confirmed_at = confirmed_at - interval '1 hour', sha256 = sha256";
    sqlx::query(older).execute(database).await.unwrap();
    for _ in 0..400 {
        assert_eq!(browser.get("/v1/me/sessions").await.status, 200);
        if browser.session() != before {
            assert_eq!(browser.get("/v1/me/sessions").await.status, 200, "the new one is confirmed");
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the secret was not replaced");
}

/// Reads for a while in which it is looked at a few times (once a second) whether the reader may still read.
async fn read(stream: &mut reqwest::Response) {
    let (mut seen, until) = (String::new(), tokio::time::Instant::now() + Duration::from_secs(4));
    while tokio::time::Instant::now() < until {
        let piece = tokio::time::timeout(Duration::from_secs(30), stream.chunk()).await.unwrap().unwrap();
        seen.push_str(std::str::from_utf8(&piece.expect("the stream goes on")).unwrap());
        assert!(!seen.contains("event: error"), "{seen}");
    }
}

/// What is under way hangs on the session, whatever became of the secret that began it; and ends with it.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_outlives_the_secrets_and_ends_with_the_session() {
    let stack = TestStack::start().await.unwrap();
    let mut dora = Browser::new(&stack);
    sign_in(&stack, &mut dora, "dora@example.com").await;
    let key = dora.post("/v1/me/keys", json!({ "name": "k" })).await;
    let owner = dora.client.with_key(&text(&key.body, "secret"));
    let org = organization(&owner).await.unwrap();
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    let config = json!({ "command": "for i in $(seq 600); do echo $i; sleep 0.2; done" });
    let agent = owner.post(&at("/agents"), &json!({ "handle": "slow", "config": config })).await.unwrap();
    let item = json!({ "agent_id": text(&agent, "id"), "title": "t" });
    let item = owner.post(&at("/work-items"), &item).await.unwrap();
    let job = item["job_ids"][0].as_str().unwrap();

    let path = at(&format!("/jobs/{job}/logs?follow=true"));
    let mut stream = dora.request(Method::GET, &path, None).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let mut database = stack.database("tenancy").await.unwrap();
    let mut old = Browser::new(&stack);
    for _ in 0..3 {
        old = dora.clone();
        replaced(&mut database, &mut dora).await;
        read(&mut stream).await;
    }
    // The use of the newest was long ago, too: so it is a thief who has the old one, and all of the session ends.
    let later =
        "UPDATE control.sessions SET confirmed_at = confirmed_at - interval '1 hour', sha256 = sha256";
    sqlx::query(later).execute(&mut database).await.unwrap();
    ended(&mut old, &at("/members")).await;
    let rest = tokio::time::timeout(Duration::from_secs(30), stream.text()).await.unwrap().unwrap();
    assert!(rest.contains("event: error") && rest.contains("invalid_credential"), "{rest}");
    ended(&mut dora, "/v1/me/sessions").await;
    stack.stop().await.unwrap();
}

/// Who signs in with a browser that was not seen before is told so, and with a known one is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_device_is_told_of() {
    let stack = TestStack::start().await.unwrap();
    for _ in 0..2 {
        sign_in(&stack, &mut Browser::new(&stack), "ada@example.com").await;
    }
    assert_eq!(stack.mailbox.of("ada@example.com").len(), 2, "two links, and nothing else");
    let mut other = Browser { agent: "Other/2.0", ..Browser::new(&stack) };
    sign_in(&stack, &mut other, "ada@example.com").await;
    let told = mail(&stack, "ada@example.com", 4).await;
    assert_eq!(told.subject, "A new device signed in");
    assert!(told.text.contains("Other/2.0") && told.text.contains("127.0.0.1"), "{told:?}");
    sign_in(&stack, &mut Browser { agent: "Other/2.0", ..Browser::new(&stack) }, "ada@example.com").await;
    assert_eq!(stack.mailbox.of("ada@example.com").len(), 5, "it is known now");
    // After so long that no place of theirs is kept any device is a new one.
    let mut db = stack.database("tenancy").await.unwrap();
    for sql in
        ["DELETE FROM control.sessions", "UPDATE control.users SET created_at = now() - interval '400 days'"]
    {
        sqlx::query(sql).execute(&mut db).await.unwrap();
    }
    sign_in(&stack, &mut Browser { agent: "Other/2.0", ..Browser::new(&stack) }, "ada@example.com").await;
    assert_eq!(mail(&stack, "ada@example.com", 7).await.subject, "A new device signed in");
    stack.stop().await.unwrap();
}

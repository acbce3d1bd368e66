//! Signing in by a link, sessions in cookies, and what thieves of links, cookies and pages can't do.

use std::time::Duration;

use nitejar_dev::client::{Answer, Client, text};
use nitejar_dev::settings::Tweaks;
use nitejar_dev::test_stack::{TestStack, organization, test_tweaks};
use nitejar_testkit::mailbox::{Fault, Received};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection as _;

/// A browser: cookies and nothing else.
#[derive(Clone)]
struct Browser {
    client: Client,
    cookies: std::collections::BTreeMap<String, String>,
}

impl Browser {
    fn new(stack: &TestStack) -> Self {
        Self { client: stack.operator().unwrap().with_key(""), cookies: Default::default() }
    }

    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> reqwest::RequestBuilder {
        let cookies: Vec<String> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mut request = self.client.request(method, path).header("user-agent", "Test/1.0");
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
        match body {
            Some(body) => request.header("sec-fetch-site", "same-origin").json(body),
            None => request,
        }
    }

    async fn call(&mut self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let answer = Client::send(self.request(method, path, body)).await.unwrap();
        for line in answer.headers.get_all("set-cookie") {
            let line = line.to_str().unwrap();
            assert!(
                line.ends_with("; HttpOnly; Secure; SameSite=Lax") && line.contains("; Path=/;"),
                "{line}"
            );
            let (name, rest) = line.split_once('=').unwrap();
            assert!(name.starts_with("__Host-"), "{name}");
            match rest.split(';').next().unwrap() {
                "" => self.cookies.remove(name),
                value => self.cookies.insert(name.to_owned(), value.to_owned()),
            };
        }
        answer
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    async fn post(&mut self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(&body)).await
    }

    fn session(&self) -> String {
        self.cookies.get("__Host-nj_session").cloned().unwrap_or_default()
    }
}

/// The newest link's secret, once there are so many mails.
async fn token(stack: &TestStack, email: &str, mails: usize) -> String {
    let mail = mail(stack, email, mails).await;
    mail.text.split("#token=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
}

async fn mail(stack: &TestStack, email: &str, mails: usize) -> Received {
    for _ in 0..1200 {
        let received = stack.mailbox.of(email);
        if received.len() >= mails {
            return received.last().unwrap().clone();
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{mails} mails for {email} did not come");
}

/// Signs a browser in.
async fn sign_in(stack: &TestStack, browser: &mut Browser, email: &str) {
    let before = stack.mailbox.of(email).len();
    assert_eq!(browser.post("/v1/sign-in", json!({ "email": email })).await.status, 200);
    let token = token(stack, email, before + 1).await;
    let answer = browser.post("/v1/sign-in:finish", json!({ "token": token })).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Everything that a person does with sessions and keys of their own.
pub(crate) async fn come_and_go(stack: &TestStack) {
    let mut browser = Browser::new(stack);
    sign_in(stack, &mut browser, "comes-and-goes@example.com").await;
    let key = browser.post("/v1/me/keys", json!({ "name": "k" })).await;
    let key = format!("/v1/me/keys/{}", text(&key.body["key"], "id"));
    assert_eq!(browser.call(Method::DELETE, &key, None).await.status, 200);
    assert_eq!(browser.post("/v1/me:signOut", json!({})).await.status, 200);
}

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

async fn raw(stack: &TestStack) -> sqlx::PgConnection {
    sqlx::PgConnection::connect(&stack.databases["tenancy"].handle.url).await.unwrap()
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
    let mut raw = raw(&stack).await;
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
    let mut raw = raw(&stack).await;
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

/// The stream shows its cookie again and again while the browser long has another: that is no thief.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_does_not_sign_its_own_reader_out() {
    let mut stack = TestStack::start_with(Tweaks { rotate_seconds: 1, ..test_tweaks() }).await.unwrap();
    let second = stack.another_gateway().await.unwrap();
    let mut dora = Browser::new(&stack);
    sign_in(&stack, &mut dora, "dora@example.com").await;
    let key = dora.post("/v1/me/keys", json!({ "name": "k" })).await;
    let owner = dora.client.with_key(&text(&key.body, "secret"));
    let org = organization(&owner).await.unwrap();
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    let agent = json!({ "handle": "slow", "config": { "command": "echo begun; sleep 60" } });
    let agent = text(&owner.post(&at("/agents"), &agent).await.unwrap(), "id");
    let item = owner.post(&at("/work-items"), &json!({ "agent_id": agent, "title": "t" })).await.unwrap();
    let job = item["job_ids"][0].as_str().unwrap().to_owned();
    tokio::time::sleep(Duration::from_millis(1100)).await;

    let path = at(&format!("/jobs/{job}/logs?follow=true"));
    let old = dora.clone();
    let mut stream = dora.request(Method::GET, &path, None).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let cookie = stream.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let (name, value) = cookie.split_once('=').unwrap();
    dora.cookies.insert(name.to_owned(), value.to_owned());
    assert_eq!(dora.get("/v1/me/sessions").await.status, 200);
    // Two minutes later, and every kept answer forgotten.
    let mut raw = raw(&stack).await;
    let later =
        "UPDATE control.sessions SET confirmed_at = confirmed_at - interval '2 min', revoked_at = revoked_at";
    assert_eq!(sqlx::query(later).execute(&mut raw).await.unwrap().rows_affected(), 1);
    tokio::time::sleep(Duration::from_millis(3000)).await;
    let mut thief = old.clone();
    for gateway in [stack.places.gateway_url(), second] {
        let mut there = Browser { client: dora.client.at(&gateway), ..dora.clone() };
        assert_eq!(there.get(&at("/members")).await.status, 200);
    }
    let mut seen = String::new();
    while let Ok(Ok(piece)) = tokio::time::timeout(Duration::from_millis(300), stream.chunk()).await {
        seen.push_str(std::str::from_utf8(&piece.expect("the stream ended")).unwrap());
    }
    assert!(seen.contains("begun") && !seen.contains("event: error"), "{seen}");
    // That the stream may go on with the old secret lets no new request in with it.
    assert_eq!(thief.get(&at("/members")).await.status, 401);
    stack.stop().await.unwrap();
}

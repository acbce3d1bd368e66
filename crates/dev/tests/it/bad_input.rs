//! Every route × everything that may be wrong with a request: the right status, a stable code, nothing internal shown.

use nitejar_dev::client::{Answer, Client, text};
use nitejar_dev::test_stack::TestStack;
use nitejar_proto::policy::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::endpoints::{ENDPOINTS, Endpoint, Ids};
use crate::world::World;

fn check(answer: &Answer, status: u16, codes: &[&str], what: &str) {
    let code = text(&answer.body, "code");
    assert!(
        answer.status == status && codes.contains(&code.as_str()),
        "{what}: {} {}",
        answer.status,
        answer.body
    );
    let content_type = answer.headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    assert_eq!(content_type, "application/problem+json", "{what}");
    assert!(answer.body["request_id"].as_str().is_some_and(|id| id.starts_with("req_")), "{what}");
    assert_eq!(
        answer.headers.get("x-request-id").and_then(|v| v.to_str().ok()),
        answer.body["request_id"].as_str()
    );
    for internal in ["sqlx", "panicked", "postgres", "src/", "h2 ", "tonic", "relation \"", "127.0.0.1"] {
        assert!(!answer.body.to_string().contains(internal), "{what} shows {internal}: {}", answer.body);
    }
}

async fn raw(client: &Client, e: &Endpoint, ids: &Ids, body: impl Into<reqwest::Body>) -> Answer {
    let request =
        client.request(e.method(), &e.path(ids)).header("content-type", "application/json").body(body);
    Client::send(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_refuses_what_is_wrong() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let w = World::new(&stack).await;
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", w.org);
    let ids = Ids::of_nothing(&w.org);
    // Keys that were good once.
    let make = async |body: Value| {
        let made = w.owner.post(&at("/keys"), &body).await.unwrap();
        (text(&made, "secret"), text(&made["key"], "id"))
    };
    let (revoked, id) = make(json!({ "name": "revoked", "role": "admin" })).await;
    w.owner.delete(&at(&format!("/keys/{id}"))).await.unwrap();
    let soon = chrono::Duration::seconds(1);
    #[expect(clippy::disallowed_methods, reason = "the gateway of this test has the machine's clock")]
    let ends = (chrono::Utc::now() + soon).to_rfc3339();
    let (expired, _) = make(json!({ "name": "expires", "role": "admin", "expires_at": ends })).await;
    while operator.with_key(&expired).call(Method::GET, &at(""), None).await.unwrap().status == 200 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let unknown = nitejar_common::key::generate(nitejar_common::key::KeyKind::Api).expose().to_owned();
    let before = w.snapshot().await;

    let large = vec![b' '; 2 << 20];
    let deep = format!("{}{}", "{\"a\":".repeat(40), "1".to_owned() + &"}".repeat(40));
    for e in ENDPOINTS {
        let policy = e.policy();
        let (rpc, body) = (e.rpc, e.body(&ids));
        let say = |what: &str| format!("{rpc} with {what}");
        // Credentials.
        if policy.scope != Scope::Public {
            let answer = operator.with_key("").call(e.method(), &e.path(&ids), body.as_ref()).await.unwrap();
            check(&answer, 401, &["unauthenticated"], &say("no credential"));
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
        for (what, key) in [
            ("a malformed key", "njk_short"),
            ("no key at all", "x"),
            ("an unknown key", &unknown),
            ("a revoked key", &revoked),
            ("an expired key", &expired),
        ] {
            let answer = operator.with_key(key).call(e.method(), &e.path(&ids), body.as_ref()).await.unwrap();
            check(&answer, 401, &["invalid_credential"], &say(what));
        }
        // Whoever may call it calls it wrongly.
        let caller = match policy.scope {
            Scope::Operator => operator.clone(),
            Scope::Runner => operator.with_key(&w.runner),
            Scope::Public => operator.with_key(""),
            _ => w.owner.clone(),
        };
        let wrong_method = if e.method() == Method::PUT { Method::PATCH } else { Method::PUT };
        let shared_path =
            ENDPOINTS.iter().any(|o| o.method() == wrong_method && o.path(&ids) == e.path(&ids));
        if !shared_path {
            let answer = caller.call(wrong_method, &e.path(&ids), None).await.unwrap();
            check(&answer, 405, &["method_not_allowed"], &say("another method"));
            assert!(answer.headers.contains_key("allow"));
        }
        let path = e.path(&ids);
        let joint = if path.contains('?') { '&' } else { '?' };
        let answer = caller
            .call(e.method(), &format!("{path}{joint}unknown_parameter=1"), body.as_ref())
            .await
            .unwrap();
        check(&answer, 400, &["invalid_argument"], &say("an unknown parameter"));
        if body.is_some() {
            let answer = raw(&caller, e, &ids, large.clone()).await;
            check(&answer, 413, &["payload_too_large"], &say("2 MiB"));
            for (what, text) in [
                ("half an object", "{\"a\": "),
                ("no JSON", "<xml/>"),
                ("deep nesting", deep.as_str()),
                ("a key twice", "{\"a\":1,\"a\":2}"),
                ("two values", "{} {}"),
            ] {
                check(&raw(&caller, e, &ids, text.to_owned()).await, 400, &["malformed_body"], &say(what));
            }
            check(
                &raw(&caller, e, &ids, b"{\"a\":\"\xff\"}".to_vec()).await,
                400,
                &["malformed_body"],
                &say("no UTF-8"),
            );
            for (what, value) in [
                ("an unknown field", json!({ "unknown_field": 1 })),
                ("an array", json!([])),
                ("a number", json!(7)),
            ] {
                let answer = raw(&caller, e, &ids, value.to_string()).await;
                check(&answer, 400, &["invalid_argument"], &say(what));
                assert!(answer.body["errors"][0]["pointer"].is_string(), "{rpc}: {}", answer.body);
            }
            let mut wrong = body.clone().unwrap();
            if let Some((_, value)) = wrong.as_object_mut().and_then(|o| o.iter_mut().next()) {
                *value = json!({ "wrong": "type" });
                let answer = raw(&caller, e, &ids, wrong.to_string()).await;
                check(&answer, 400, &["invalid_argument"], &say("a wrong type"));
            }
            let answer = Client::send(
                caller.request(e.method(), &path).header("content-type", "text/plain").body("{}"),
            )
            .await
            .unwrap();
            check(&answer, 415, &["unsupported_media_type"], &say("another content type"));
            let compressed = caller.request(e.method(), &path).header("content-type", "application/json");
            let answer =
                Client::send(compressed.header("content-encoding", "gzip").body("{}")).await.unwrap();
            check(&answer, 415, &["unsupported_media_type"], &say("a compressed body"));
        }
        // Each variable of the path malformed.
        let template = policy.http.as_ref().unwrap().template.clone();
        for variable in template.split('{').skip(1).filter_map(|s| s.split('}').next()) {
            for junk in ["x", "agent_%00", "..%2f..", "%27%3Bdrop%20table", "%F0%9F%98%80"] {
                let path = ids.fill(&template.replace(&format!("{{{variable}}}"), junk));
                let answer = caller.call(e.method(), &path, body.as_ref()).await.unwrap();
                let (status, code) = if variable == "org_id" && policy.scope == Scope::Tenant {
                    (404, "not_found")
                } else {
                    (400, "invalid_argument")
                };
                if policy.scope == Scope::Operator && variable == "org_id" {
                    check(&answer, 404, &["not_found"], &say(&path));
                } else {
                    check(&answer, status, &[code], &say(&path));
                }
            }
        }
    }
    assert_eq!(w.snapshot().await, before, "bad input changed something");
    for path in ["//", "/v1", "/v1/orgs/", "/v1//orgs", "/v2/orgs", "/v1/orgs/%2e%2e/x", "/.env", "/v1/ORGS"]
    {
        let answer = w.owner.call(Method::GET, path, None).await.unwrap();
        assert!(answer.status == 404 || answer.status == 400, "{path}: {}", answer.status);
    }
    stack.stop().await.unwrap();
}

/// A burst of clients that go away leaves unrelated calls unharmed.
#[tokio::test(flavor = "multi_thread")]
async fn disconnects_in_bursts_harm_nobody_else() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = nitejar_dev::test_stack::person(&operator, "owner").await.unwrap();
    let org = nitejar_dev::test_stack::organization(&owner).await.unwrap();
    let path = format!("/v1/orgs/{org}");
    for _ in 0..3 {
        let leaving: Vec<_> = (0..200)
            .map(|_| {
                let (owner, path) = (owner.clone(), path.clone());
                tokio::spawn(async move { owner.get(&path).await })
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(15)).await;
        leaving.iter().for_each(|l| l.abort());
        for _ in 0..50 {
            owner.get(&path).await.unwrap();
        }
    }
    stack.stop().await.unwrap();
}

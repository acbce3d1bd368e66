//! An organization's keys: bound to networks, slower than others, changed without a gap, and not too many.

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use reqwest::Method;
use serde_json::{Value, json};

use crate::people::{Browser, mail, sign_in};

async fn becomes(client: &Client, path: &str, status: u16) {
    for _ in 0..80 {
        if client.call(Method::GET, path, None).await.unwrap().status == status {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("{path} is not answered with {status}");
}

async fn code(client: &Client, method: Method, path: &str, body: Value) -> (u16, String) {
    let answer = client.call(method, path, Some(&body)).await.unwrap();
    (answer.status, text(&answer.body, "code"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_good_where_and_as_often_as_it_says() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let (path, keys) = (format!("/v1/orgs/{org}"), format!("/v1/orgs/{org}/keys"));
    let wish = json!({ "name": "k", "role": "viewer", "allowed_networks": ["203.0.113.77/24", "2001:db8::1"], "requests_per_minute": 3 });
    let made = owner.post(&keys, &wish).await.unwrap();
    assert_eq!(made["key"]["allowed_networks"], json!(["2001:db8::1/128", "203.0.113.0/24"]));
    let key = operator.with_key(&text(&made, "secret"));
    let one = format!("{keys}/{}", text(&made["key"], "id"));
    assert_eq!(code(&key, Method::GET, &path, Value::Null).await, (403, "address_not_allowed".into()));
    // A header of the caller's own is no address.
    let forged = key.request(Method::GET, &path).header("x-forwarded-for", "203.0.113.9");
    assert_eq!(Client::send(forged).await.unwrap().status, 403);
    let denied = |v: &Value| {
        v["events"]
            .as_array()
            .is_some_and(|l| l.iter().any(|e| e["details"]["code"] == "address_not_allowed"))
    };
    owner
        .until(&format!("{path}/audit-events?action=access.denied"), 20, "the refusal", denied)
        .await
        .unwrap();
    let changed = owner.patch(&one, &json!({ "allowed_networks": ["127.0.0.0/8"] })).await.unwrap();
    assert_eq!((&changed["requests_per_minute"], &changed["name"]), (&json!(3), &json!("k")));
    becomes(&key, &path, 200).await;
    // Of its own three a minute nothing is left soon, while others go on.
    becomes(&key, &path, 429).await;
    assert_eq!(owner.call(Method::GET, &path, None).await.unwrap().status, 200);
    let open = owner.patch(&one, &json!({ "allowed_networks": [], "requests_per_minute": 0 })).await.unwrap();
    assert_eq!((&open["allowed_networks"], open.get("requests_per_minute")), (&json!([]), None));
    becomes(&key, &path, 200).await;
    for wrong in [json!(["10.0.0.0/33"]), json!(["example.com"]), json!(["1"]), json!(vec!["10.0.0.1"; 21])] {
        let answer = code(&owner, Method::PATCH, &one, json!({ "allowed_networks": wrong })).await;
        assert_eq!(answer, (400, "invalid_argument".into()), "{wrong}");
    }
    stack.stop().await.unwrap();
}

/// A person's own key is bound as an organization's is, and dies for an organization with the membership.
#[tokio::test(flavor = "multi_thread")]
async fn a_personal_key_has_limits_and_ends_with_the_membership() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let path = format!("/v1/orgs/{org}");
    let mut browser = Browser::new(&stack);
    sign_in(&stack, &mut browser, "comes@example.com").await;
    let id = text(&browser.get("/v1/me").await.body, "id");
    let wish = json!({ "name": "far", "allowed_networks": ["203.0.113.0/24"], "requests_per_minute": 9 });
    let far = browser.post("/v1/me/keys", wish).await.body;
    assert_eq!(far["key"]["requests_per_minute"], 9, "{far}");
    let far = operator.with_key(&text(&far, "secret"));
    assert_eq!(code(&far, Method::GET, "/v1/me", Value::Null).await, (403, "address_not_allowed".into()));
    let laptop = |answer: Value| operator.with_key(&text(&answer, "secret"));
    let first = laptop(browser.post("/v1/me/keys", json!({ "name": "laptop" })).await.body);
    let invited = json!({ "email": "comes@example.com", "role": "viewer" });
    for round in 0..2 {
        let token = owner.post(&format!("{path}/invitations"), &invited).await.unwrap()["token"].clone();
        assert_eq!(browser.post("/v1/invitations:accept", json!({ "token": token })).await.status, 200);
        becomes(&first, &path, if round == 0 { 200 } else { 404 }).await;
        if round == 0 {
            owner.delete(&format!("{path}/members/{id}")).await.unwrap();
            becomes(&first, &path, 404).await;
        }
    }
    // The person is back, and so is what they make from now on.
    assert_eq!(browser.get(&path).await.status, 200);
    let second = laptop(browser.post("/v1/me/keys", json!({ "name": "new" })).await.body);
    becomes(&second, &path, 200).await;
    assert_eq!(first.call(Method::GET, "/v1/me", None).await.unwrap().status, 200, "theirs it is still");
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_changed_without_a_gap_and_its_end_is_told() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let (path, keys) = (format!("/v1/orgs/{org}"), format!("/v1/orgs/{org}/keys"));
    let wish = json!({ "name": "CI", "role": "admin", "scopes": ["org.read", "keys.write"] });
    let first = owner.post(&keys, &wish).await.unwrap();
    let first_id = text(&first["key"], "id");
    let old = operator.with_key(&text(&first, "secret"));
    let second =
        owner.post(&format!("{keys}/{first_id}:rotate"), &json!({ "overlap_seconds": 2 })).await.unwrap();
    let new = operator.with_key(&text(&second, "secret"));
    assert_eq!(
        (&second["key"]["replaces"], &second["key"]["scopes"]),
        (&json!(first_id), &json!(["keys.write", "org.read"]))
    );
    // Both work; then one.
    assert_eq!(old.call(Method::GET, &path, None).await.unwrap().status, 200);
    assert_eq!(new.call(Method::GET, &path, None).await.unwrap().status, 200);
    becomes(&new, &path, 200).await;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while old.call(Method::GET, &path, None).await.unwrap().status != 401 {
        assert!(std::time::Instant::now() < until, "the old one works on");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(
        code(&owner, Method::POST, &format!("{keys}/{first_id}:rotate"), json!({})).await,
        (409, "conflict".into())
    );
    // A key changes itself, at once; one that is narrower can't change a wider one.
    let second_id = text(&second["key"], "id");
    let third =
        new.post(&format!("{keys}/{second_id}:rotate"), &json!({ "overlap_seconds": 0 })).await.unwrap();
    becomes(&new, &path, 401).await;
    let third = operator.with_key(&text(&third, "secret"));
    let wide = owner.post(&keys, &json!({ "name": "wide", "role": "admin" })).await.unwrap();
    let wide_path = format!("{keys}/{}:rotate", text(&wide["key"], "id"));
    assert_eq!(code(&third, Method::POST, &wide_path, json!({})).await, (403, "permission_denied".into()));

    // Told a week and a day before the end, each once.
    #[expect(clippy::disallowed_methods, reason = "the services of this test have the machine's clock")]
    let now = chrono::Utc::now();
    let at = |days: i64| (now + chrono::Duration::days(days)).to_rfc3339();
    let ends =
        owner.post(&keys, &json!({ "name": "ends", "role": "viewer", "expires_at": at(30) })).await.unwrap();
    let id = text(&ends["key"], "id");
    let mut db = stack.database("tenancy").await.unwrap();
    let address = text(&owner.get("/v1/me").await.unwrap(), "email");
    // One that was rotated ends as expected, and nobody is told.
    let rotated =
        owner.post(&keys, &json!({ "name": "old", "role": "viewer", "expires_at": at(30) })).await.unwrap();
    let rotated = text(&rotated["key"], "id");
    owner.post(&format!("{keys}/{rotated}:rotate"), &json!({})).await.unwrap();
    sqlx::query("UPDATE control.credentials SET created_at = now() - interval '60 days' WHERE key_id = $1")
        .bind(&rotated)
        .execute(&mut db)
        .await
        .unwrap();
    for (step, left) in [(1, "6 days"), (2, "12 hours")] {
        sqlx::query("UPDATE control.credentials SET created_at = now() - interval '60 days', expires_at = now() + $2::interval WHERE key_id = $1")
            .bind(&id)
            .bind(left)
            .execute(&mut db)
            .await
            .unwrap();
        let told = mail(&stack, &address, step).await;
        assert!(told.text.contains("\"ends\"") && told.text.contains(&id), "{told:?}");
    }
    assert!(stack.mailbox.of(&address).iter().all(|m| !m.text.contains(&rotated)));
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_keys_are_enough() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let keys = format!("/v1/orgs/{org}/keys");
    let wish = json!({ "name": "k", "role": "viewer" });
    for _ in 0..98 {
        owner.post(&keys, &wish).await.unwrap();
    }
    // Of many at once as many as there is room for.
    let all =
        futures_util::future::join_all((0..8).map(|_| owner.call(Method::POST, &keys, Some(&wish)))).await;
    let made: Vec<u16> = all.into_iter().map(|a| a.unwrap().status).collect();
    assert_eq!(made.iter().filter(|s| **s == 200).count(), 2, "{made:?}");
    let some = text(&owner.get(&keys).await.unwrap()["keys"][0], "id");
    owner.delete(&format!("{keys}/{some}")).await.unwrap();
    let some = text(&owner.post(&keys, &wish).await.unwrap()["key"], "id");
    // Whoever has so many still rotates them, and has no more afterwards.
    owner.post(&format!("{keys}/{some}:rotate"), &json!({})).await.unwrap();
    assert_eq!(code(&owner, Method::POST, &keys, wish.clone()).await, (409, "conflict".into()));
    stack.stop().await.unwrap();
}

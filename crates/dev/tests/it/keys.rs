//! An organization's keys: bound to networks, slower than others, changed without a gap, and not too many.

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use reqwest::Method;
use serde_json::{Value, json};

use crate::custom_roles::Org;
use crate::people::{Browser, mail, sign_in};
use crate::world::join;

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
    let laptop = browser.post("/v1/me/keys", json!({ "name": "laptop" })).await.body;
    let laptop = operator.with_key(&text(&laptop, "secret"));
    let invited = json!({ "email": "comes@example.com", "role": "viewer" });
    let token = owner.post(&format!("{path}/invitations"), &invited).await.unwrap()["token"].clone();
    assert_eq!(browser.post("/v1/invitations:accept", json!({ "token": token })).await.status, 200);
    becomes(&laptop, &path, 200).await;
    owner.delete(&format!("{path}/members/{id}")).await.unwrap();
    becomes(&laptop, &path, 404).await;
    assert_eq!(laptop.call(Method::GET, "/v1/me", None).await.unwrap().status, 200, "theirs it is still");
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

/// What binds a key binds all that it makes and changes: who steals one can't free it.
#[tokio::test(flavor = "multi_thread")]
async fn a_bound_key_frees_neither_itself_nor_another() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let keys = format!("/v1/orgs/{org}/keys");
    let now = nitejar_common::clock::system().now();
    let at = |days: i64| (now + chrono::Duration::days(days)).format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let bound = |networks: Value, a_minute: u32, days: i64| {
        let bounds = json!({ "allowed_networks": networks, "requests_per_minute": a_minute });
        let mut wish = json!({ "name": "k", "role": "admin", "expires_at": at(days) });
        wish.as_object_mut().unwrap().extend(bounds.as_object().unwrap().clone());
        wish
    };
    let here = || json!(["127.0.0.0/8"]);
    let made = owner.post(&keys, &bound(here(), 1000, 30)).await.unwrap();
    let key = operator.with_key(&text(&made, "secret"));
    let own = format!("{keys}/{}", text(&made["key"], "id"));
    let free = owner.post(&keys, &json!({ "name": "free", "role": "viewer" })).await.unwrap();
    let free = format!("{keys}/{}", text(&free["key"], "id"));
    let narrow = owner.post(&keys, &bound(json!(["127.0.0.1"]), 10, 10)).await.unwrap();
    let narrow = format!("{keys}/{}", text(&narrow["key"], "id"));
    let denied = (403, "permission_denied".to_owned());
    for (method, path, body) in [
        (Method::PATCH, own.clone(), json!({ "allowed_networks": [] })),
        (Method::PATCH, own.clone(), json!({ "allowed_networks": ["126.0.0.0/7"] })),
        (Method::PATCH, own.clone(), json!({ "requests_per_minute": 0 })),
        (Method::PATCH, own.clone(), json!({ "requests_per_minute": 1001 })),
        (Method::PATCH, narrow.clone(), json!({ "allowed_networks": [] })),
        (Method::PATCH, narrow.clone(), json!({ "requests_per_minute": 0 })),
        (Method::POST, format!("{own}:rotate"), json!({ "expires_at": at(31) })),
        (Method::POST, format!("{narrow}:rotate"), json!({ "expires_at": at(31) })),
        (Method::POST, format!("{free}:rotate"), json!({})),
        (Method::POST, keys.clone(), json!({ "name": "k", "role": "admin" })),
        (Method::POST, keys.clone(), bound(json!([]), 1000, 30)),
        (Method::POST, keys.clone(), bound(here(), 1001, 30)),
        (Method::POST, keys.clone(), bound(here(), 1000, 31)),
    ] {
        assert_eq!(code(&key, method.clone(), &path, body.clone()).await, denied, "{method} {path} {body}");
    }
    // Within its own it gives; from a freer one it takes; it narrows itself, and goes on.
    key.post(&keys, &bound(json!(["127.1.0.0/16"]), 1000, 30)).await.unwrap();
    key.patch(&narrow, &json!({ "allowed_networks": ["127.0.0.0/16"], "requests_per_minute": 20 }))
        .await
        .unwrap();
    key.patch(&free, &json!({ "requests_per_minute": 5000 })).await.unwrap();
    key.patch(&own, &json!({ "allowed_networks": ["127.0.0.0/16"] })).await.unwrap();
    let next = key.post(&format!("{own}:rotate"), &json!({})).await.unwrap();
    assert_eq!(
        (&next["key"]["allowed_networks"], &next["key"]["requests_per_minute"], &next["key"]["expires_at"]),
        (&json!(["127.0.0.0/16"]), &json!(1000), &made["key"]["expires_at"])
    );
    // A person frees it, and is not bound by what they free.
    let freed = json!({ "allowed_networks": [], "requests_per_minute": 0 });
    owner.patch(&format!("{keys}/{}", text(&next["key"], "id")), &freed).await.unwrap();
    stack.stop().await.unwrap();
}

/// While the old one still works it is not replaced once more, by what would end with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_replaced_once() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let keys = format!("/v1/orgs/{org}/keys");
    let made = owner.post(&keys, &json!({ "name": "k", "role": "viewer" })).await.unwrap();
    let rotate = |key: &Value| format!("{keys}/{}:rotate", text(&key["key"], "id"));
    let once = async || {
        let request = owner.request(Method::POST, &rotate(&made)).header("idempotency-key", "once");
        Client::send(request.json(&json!({}))).await.unwrap()
    };
    let next = once().await;
    assert_eq!(next.status, 200, "{}", next.body);
    // Who lost the answer, and said that it may come twice, gets it again.
    assert_eq!(once().await.body, next.body);
    let refused = owner.call(Method::POST, &rotate(&made), Some(&json!({}))).await.unwrap();
    assert_eq!((refused.status, text(&refused.body, "code")), (409, "conflict".into()));
    let newer = text(&next.body["key"], "id");
    assert!(text(&refused.body, "detail").contains(&newer), "{}", refused.body);
    // The newest is rotated instead, and lives as long as the first was to.
    let third = owner.post(&rotate(&next.body), &json!({})).await.unwrap();
    assert_eq!((third["key"].get("expires_at"), &third["key"]["replaces"]), (None, &json!(newer)));
    stack.stop().await.unwrap();
}

/// A scope that a changed role lets sleep wakes when the role is changed back: who gets the secret must hold it, too.
#[tokio::test(flavor = "multi_thread")]
async fn who_rotates_a_key_holds_also_what_sleeps_in_it() {
    let stack = TestStack::start().await.unwrap();
    let Org { operator, owner, id: org } = Org::new(&stack, "team").await;
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    let (admin, _) = join(&operator, &owner, &org, "admin").await;
    let role = json!({ "name": "Bills", "permissions": ["billing.read", "jobs.read"] });
    let role = text(&owner.post(&at("/roles"), &role).await.unwrap(), "id");
    let wish = json!({ "name": "k", "role": "viewer", "role_ids": [role], "scopes": ["billing.read", "keys.write", "jobs.read"] });
    assert_eq!(
        code(&owner, Method::POST, &at("/keys"), wish).await.0,
        400,
        "keys.write is in none of its roles"
    );
    let wish =
        json!({ "name": "k", "role": "viewer", "role_ids": [role], "scopes": ["billing.read", "jobs.read"] });
    let key = owner.post(&at("/keys"), &wish).await.unwrap();
    owner.patch(&at(&format!("/roles/{role}")), &json!({ "permissions": ["jobs.read"] })).await.unwrap();
    let one = at(&format!("/keys/{}", text(&key["key"], "id")));
    for (method, path, body) in [
        (Method::POST, format!("{one}:rotate"), json!({})),
        (Method::PATCH, one.clone(), json!({ "requests_per_minute": 5 })),
    ] {
        let refused = admin.call(method, &path, Some(&body)).await.unwrap();
        assert_eq!((refused.status, &refused.body["permission"]), (403, &json!("billing.read")), "{path}");
    }
    owner.post(&format!("{one}:rotate"), &json!({})).await.unwrap();
    stack.stop().await.unwrap();
}

/// To free a key is as good as to make one: a browser must have signed in a moment ago.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_browser_frees_no_key() {
    let mut stack = TestStack::start().await.unwrap();
    let other = stack.another_gateway().await.unwrap();
    let mut db = stack.database("tenancy").await.unwrap();
    let mut browser = Browser::new(&stack);
    sign_in(&stack, &mut browser, "ada@example.com").await;
    let made = browser.post("/v1/orgs", json!({ "slug": "adas", "name": "Ada's" })).await;
    let keys = format!("/v1/orgs/{}/keys", text(&made.body, "id"));
    let wish = json!({ "name": "k", "role": "viewer", "allowed_networks": ["10.0.0.0/8"], "requests_per_minute": 5 });
    let key = browser.post(&keys, wish).await;
    let one = format!("{keys}/{}", text(&key.body["key"], "id"));
    sqlx::query("UPDATE control.sessions SET created_at = created_at - interval '16 min'")
        .execute(&mut db)
        .await
        .unwrap();
    // A gateway that has not asked before.
    browser.client = browser.client.at(&other);
    for body in [
        json!({ "allowed_networks": [] }),
        json!({ "allowed_networks": ["10.0.0.0/8", "192.0.2.1"] }),
        json!({ "requests_per_minute": 0 }),
        json!({ "requests_per_minute": 6 }),
    ] {
        let refused = browser.call(Method::PATCH, &one, Some(&body)).await;
        assert_eq!((refused.status, text(&refused.body, "code")), (403, "sign_in_again".into()), "{body}");
    }
    let less = json!({ "name": "less", "allowed_networks": ["10.1.0.0/16"], "requests_per_minute": 4 });
    let changed = browser.call(Method::PATCH, &one, Some(&less)).await;
    assert_eq!((changed.status, &changed.body["name"]), (200, &json!("less")), "{}", changed.body);
    stack.stop().await.unwrap();
}

//! What is dangerous needs a person of a moment ago.

use nitejar_dev::client::text;
use nitejar_dev::test_stack::TestStack;
use reqwest::Method;
use serde_json::{Value, json};

use crate::custom_roles::{Org, code};
use crate::people::{Browser, sign_in};
use crate::world::join;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dangerous_needs_a_sign_in_of_a_moment_ago() {
    let stack = TestStack::start().await.unwrap();
    let mut db = stack.database("tenancy").await.unwrap();
    let mut browser = Browser::new(&stack);
    sign_in(&stack, &mut browser, "ada@example.com").await;
    let made = browser.post("/v1/orgs", json!({ "slug": "adas", "name": "Ada's" })).await;
    let org = format!("/v1/orgs/{}", text(&made.body, "id"));
    let (path, keys) = (format!("{org}?slug=adas"), format!("{org}/keys"));
    let key = browser.post(&keys, json!({ "name": "CI", "role": "viewer" })).await;
    let rotate = format!("{keys}/{}:rotate", text(&key.body["key"], "id"));
    let data_key = format!("{org}/secrets:rotateDataKey");
    let owner = json!({ "email": "bob@example.com", "role": "owner" });
    sqlx::query("UPDATE control.sessions SET created_at = created_at - interval '16 min'")
        .execute(&mut db)
        .await
        .unwrap();
    // A gateway that has not asked before.
    let mut stack = stack;
    let other = stack.another_gateway().await.unwrap();
    browser.client = browser.client.at(&other);
    assert_eq!(browser.get("/v1/me").await.status, 200, "the session goes on");
    for (method, path, body) in [
        (Method::DELETE, path.as_str(), None),
        (Method::POST, "/v1/me/keys", Some(json!({ "name": "k" }))),
        (Method::POST, &format!("{org}/invitations"), Some(owner)),
        // So is what makes something that lasts.
        (Method::POST, &keys, Some(json!({ "name": "k", "role": "viewer" }))),
        (Method::POST, &rotate, Some(json!({}))),
        (Method::POST, &data_key, Some(json!({}))),
    ] {
        let answer = browser.call(method, path, body.as_ref()).await;
        assert_eq!((answer.status, text(&answer.body, "code")), (403, "sign_in_again".into()), "{path}");
    }
    sign_in(&stack, &mut browser, "ada@example.com").await;
    assert_eq!(browser.post("/v1/me/keys", json!({ "name": "k" })).await.status, 200);
    assert_eq!(browser.post(&rotate, json!({})).await.status, 200);
    let deleting = browser.call(Method::DELETE, &path, None).await;
    assert_eq!((deleting.status, &deleting.body["state"]), (200, &json!("deleting")), "{}", deleting.body);
    stack.stop().await.unwrap();
}

/// Making a person's key needs a fresh sign-in, so it is worth one for as long. An organization's key never is.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_as_fresh_as_its_making() {
    let mut stack = TestStack::start().await.unwrap();
    let other = stack.another_gateway().await.unwrap();
    let org = Org::new(&stack, "team").await;
    let (_, member) = join(&org.operator, &org.owner, &org.id, "member").await;
    let role = org.role("Exports", &["org.export"]).await;
    let wish = json!({ "name": "k", "role": "admin", "role_ids": [role] });
    let key = org.owner.post(&org.at("/keys"), &wish).await.unwrap();
    let program = org.operator.with_key(&text(&key, "secret"));
    let exports = org.at("/exports");
    let refused = program.call(Method::POST, &exports, Some(&json!({}))).await.unwrap();
    assert_eq!((refused.status, text(&refused.body, "code")), (403, "sign_in_again".into()));
    assert!(text(&refused.body, "detail").starts_with("A person must do this"), "{}", refused.body);
    for question in ["Exports.CreateExport", "org.leave"] {
        let why = org.explain(&text(&key["key"], "id"), question).await;
        assert_eq!(why["allowed"], false, "{why}");
    }
    let export = text(&org.owner.post(&exports, &json!({})).await.unwrap(), "id");
    let (export, parts) =
        (org.at(&format!("/exports/{export}")), org.at(&format!("/exports/{export}/parts/1")));
    org.owner.until(&export, 60, "the export", |v| v["state"] == "ready").await.unwrap();
    let refused = program.call(Method::GET, &parts, None).await.unwrap();
    assert_eq!((refused.status, text(&refused.body, "code")), (403, "sign_in_again".into()));

    let mut db = stack.database("tenancy").await.unwrap();
    sqlx::query("UPDATE control.credentials SET created_at = created_at - interval '16 min'")
        .execute(&mut db)
        .await
        .unwrap();
    // A gateway that has not asked before.
    let owner = org.owner.at(&other);
    let (members, invitations) = (org.at(&format!("/members/{member}")), org.at("/invitations"));
    for (method, path, body) in [
        (Method::POST, &exports, json!({})),
        (Method::POST, &org.at("/ownership-offer"), json!({ "user_id": member })),
        (Method::PATCH, &members, json!({ "role": "owner" })),
        (Method::POST, &invitations, json!({ "email": "a@example.com", "role": "owner" })),
    ] {
        let refused = owner.call(method, path, Some(&body)).await.unwrap();
        assert_eq!((refused.status, text(&refused.body, "code")), (403, "sign_in_again".into()), "{path}");
        assert!(text(&refused.body, "detail").starts_with("This key was made"), "{}", refused.body);
    }
    let refused = owner.call(Method::GET, &parts, None).await.unwrap();
    assert_eq!((refused.status, text(&refused.body, "code")), (403, "sign_in_again".into()), "what it holds");
    let csv = json!({ "csv": "email,role\nb@example.com,owner\nc@example.com,viewer" });
    let done = owner.post(&org.at("/invitations:import"), &csv).await.unwrap();
    let outcomes: Vec<String> =
        done["rows"].as_array().unwrap().iter().map(|row| text(row, "outcome")).collect();
    assert_eq!(outcomes, ["sign_in_again", "invited"]);
    // The rest goes on, and programs go on making keys with keys.
    owner.patch(&members, &json!({ "role": "admin" })).await.unwrap();
    for client in [&owner, &program.at(&other)] {
        client.post(&org.at("/keys"), &json!({ "name": "next", "role": "viewer" })).await.unwrap();
    }
    owner.post(&org.at("/secrets:rotateDataKey"), &json!({})).await.unwrap();
    stack.stop().await.unwrap();
}

/// What only owners hold makes an owner in part: it is given as an owner is made, whatever carries it; so is ownership taken.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_owners_hold_is_given_by_a_person_of_a_moment_ago() {
    let mut stack = TestStack::start().await.unwrap();
    let other = stack.another_gateway().await.unwrap();
    let org = Org::new(&stack, "team").await;
    let (_, second) = join(&org.operator, &org.owner, &org.id, "owner").await;
    let (_, viewer) = join(&org.operator, &org.owner, &org.id, "viewer").await;
    let (_, trusted) = join(&org.operator, &org.owner, &org.id, "viewer").await;
    let deleters = org.role("Deleters", &["org.delete"]).await;
    let auditors = org.role("Auditors", &["audit.read"]).await;
    let of = |user: &str| org.at(&format!("/members/{user}/roles"));
    org.owner.put(&of(&trusted), &json!({ "role_ids": [deleters] })).await.unwrap();
    let invitation = json!({ "email": "d@example.com", "role": "viewer", "role_ids": [deleters] });
    let invited = org.owner.post(&org.at("/invitations"), &invitation).await.unwrap();
    let resend = org.at(&format!("/invitations/{}:resend", text(&invited["invitation"], "id")));
    let wish = |role: &str| json!({ "name": "k", "role": role, "role_ids": [deleters] });
    let small = org.owner.post(&org.at("/keys"), &wish("viewer")).await.unwrap();
    let rotate = |key: &Value| org.at(&format!("/keys/{}:rotate", text(&key["key"], "id")));
    let large = org.owner.post(&org.at("/keys"), &wish("admin")).await.unwrap();
    let mut db = stack.database("tenancy").await.unwrap();
    sqlx::query("UPDATE control.credentials SET created_at = created_at - interval '16 min'")
        .execute(&mut db)
        .await
        .unwrap();
    // A gateway that has not asked before.
    let owner = org.owner.at(&other);
    let program = org.operator.with_key(&text(&large, "secret")).at(&other);
    let role = |id: &str| org.at(&format!("/roles/{id}"));
    let again = (403, "sign_in_again".to_owned());
    let invitation = json!({ "email": "e@example.com", "role": "viewer", "role_ids": [deleters] });
    for client in [&owner, &program] {
        for (method, path, body) in [
            (Method::POST, org.at("/roles"), json!({ "name": "More", "permissions": ["org.delete"] })),
            (Method::PATCH, role(&auditors), json!({ "permissions": ["audit.read", "org.delete"] })),
            (Method::PUT, of(&viewer), json!({ "role_ids": [auditors, deleters] })),
            (Method::POST, org.at("/invitations"), invitation.clone()),
            (Method::POST, resend.clone(), json!({})),
            (Method::POST, org.at("/keys"), wish("viewer")),
            (Method::POST, rotate(&small), json!({})),
        ] {
            assert_eq!(code(client, method.clone(), &path, body).await, again, "{method} {path}");
        }
    }
    let member = org.at(&format!("/members/{second}"));
    assert_eq!(code(&owner, Method::PATCH, &member, json!({ "role": "admin" })).await, again);
    let removed = owner.call(Method::DELETE, &member, None).await.unwrap();
    assert_eq!((removed.status, text(&removed.body, "code")), again);
    // What is no owner's alone goes on, and who has it keeps it; a key that rotates itself gives nobody anything.
    for client in [&owner, &program] {
        client.patch(&role(&deleters), &json!({ "description": "Rare." })).await.unwrap();
        client.put(&of(&trusted), &json!({ "role_ids": [auditors, deleters] })).await.unwrap();
        client.put(&of(&viewer), &json!({ "role_ids": [auditors] })).await.unwrap();
    }
    let next = program.post(&rotate(&large), &json!({})).await.unwrap();
    assert_eq!(next["key"]["role_ids"], json!([deleters]));
    stack.stop().await.unwrap();
}

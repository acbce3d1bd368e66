//! People come, go, hand over and are forgotten.

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use reqwest::Method;
use serde_json::{Value, json};

use crate::people::{Browser, mail, sign_in};
use crate::world::join;

pub(crate) async fn code(client: &Client, method: Method, path: &str, body: Value) -> (u16, String) {
    let body = Some(&body).filter(|b| !b.is_null());
    let answer = client.call(method, path, body).await.unwrap();
    (answer.status, text(&answer.body, "code"))
}

/// Everything that people do which the world itself does not do. For the coverage of audit actions.
pub(crate) async fn deeds(operator: &Client, owner: &Client, org: &str) {
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    let (other, _) = person(operator, "declines").await.unwrap();
    let email = text(&other.get("/v1/me").await.unwrap(), "email");
    let wish = json!({ "email": email, "role": "viewer" });
    let invited = owner.post(&at("/invitations"), &wish).await.unwrap();
    let path = at(&format!("/invitations/{}:resend", text(&invited["invitation"], "id")));
    let again = owner.post(&path, &json!({})).await.unwrap();
    other.post("/v1/invitations:decline", &json!({ "token": again["token"] })).await.unwrap();
    owner.post(&at("/invitations:import"), &json!({ "csv": "email\nimported@example.com" })).await.unwrap();
    let owner_id = text(&owner.get("/v1/me").await.unwrap(), "id");
    let (heir, heir_id) = join(operator, owner, org, "admin").await;
    for accepted in [false, true] {
        owner.post(&at("/ownership-offer"), &json!({ "user_id": heir_id })).await.unwrap();
        if accepted {
            heir.post(&at("/ownership-offer:accept"), &json!({})).await.unwrap();
        } else {
            heir.delete(&at("/ownership-offer")).await.unwrap();
        }
    }
    // Gateways hear within a second who is what now.
    let back = json!({ "role": "owner" });
    for _ in 0..80 {
        let done = heir.call(Method::PATCH, &at(&format!("/members/{owner_id}")), Some(&back)).await.unwrap();
        if done.status == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    owner.until(&at("/secrets"), 5, "their rights", |v| v["secrets"].is_array()).await.unwrap();
    owner.delete(&at(&format!("/members/{heir_id}"))).await.unwrap();
    let email = text(&heir.get("/v1/me").await.unwrap(), "email");
    heir.delete(&format!("/v1/me?email={email}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ownership_is_handed_over_in_two_steps() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, owner_id) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    let (heir, heir_id) = join(&operator, &owner, &org, "viewer").await;
    let (admin, _) = join(&operator, &owner, &org, "admin").await;
    let (offer, accept) = (at("/ownership-offer"), at("/ownership-offer:accept"));
    let to = json!({ "user_id": heir_id });
    assert_eq!(code(&admin, Method::POST, &offer, to.clone()).await, (403, "permission_denied".into()));
    let missing = json!({ "user_id": "user_01h2xcejqtf2nbrexx3vqjhp41" });
    assert_eq!(code(&owner, Method::POST, &offer, missing).await.0, 404);
    owner.post(&offer, &to).await.unwrap();
    let email = text(&heir.get("/v1/me").await.unwrap(), "email");
    assert!(mail(&stack, &email, 2).await.subject.contains("Ownership of Org"));
    assert_eq!(admin.get(&offer).await.unwrap()["to_user_id"], heir_id.as_str());
    assert_eq!(code(&admin, Method::POST, &accept, json!({})).await.0, 404, "it is not the admin's");
    assert_eq!(code(&admin, Method::DELETE, &offer, Value::Null).await.0, 403);
    heir.delete(&offer).await.unwrap();
    assert_eq!(code(&heir, Method::POST, &accept, json!({})).await.0, 404, "refused is refused");
    // An offer ends with the ownership of who made it, and is none again when they are made an owner again.
    let (second, second_id) = join(&operator, &owner, &org, "owner").await;
    second.post(&offer, &to).await.unwrap();
    for role in ["admin", "owner"] {
        owner.patch(&at(&format!("/members/{second_id}")), &json!({ "role": role })).await.unwrap();
        let gone = code(&heir, Method::POST, &accept, json!({})).await;
        assert_eq!(gone, (404, "not_found".into()), "the offer of who became {role}");
    }
    let (third, third_id) = join(&operator, &owner, &org, "owner").await;
    third.post(&offer, &to).await.unwrap();
    owner.delete(&at(&format!("/members/{third_id}"))).await.unwrap();
    assert_eq!(code(&heir, Method::GET, &offer, Value::Null).await, (404, "not_found".into()));
    owner.post(&offer, &to).await.unwrap();
    let done = heir.post(&accept, &json!({})).await.unwrap();
    assert_eq!(done, json!({ "owner_user_id": heir_id, "former_owner_user_id": owner_id }));
    let roles: Vec<(String, String)> = heir
        .all(&at("/members"), "members")
        .await
        .unwrap()
        .iter()
        .filter(|m| m["user_id"] == owner_id.as_str() || m["user_id"] == heir_id.as_str())
        .map(|m| (text(m, "user_id"), text(m, "role")))
        .collect();
    let expected = [(owner_id, "admin".to_owned()), (heir_id, "owner".to_owned())];
    assert!(expected.iter().all(|e| roles.contains(e)), "{roles:?}");
    assert_eq!(code(&heir, Method::GET, &offer, Value::Null).await.0, 404);
    // A browser must have signed in a moment ago; an organization's key is nobody.
    heir.until_ok(&at("/secrets"), 5).await.unwrap();
    let key = heir.post(&at("/keys"), &json!({ "name": "k", "role": "admin" })).await.unwrap();
    let program = operator.with_key(&text(&key, "secret"));
    assert_eq!(code(&program, Method::POST, &accept, json!({})).await.0, 403);
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_shown_and_forgotten() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let mut browser = Browser::new(&stack);
    sign_in(&stack, &mut browser, "gone@example.com").await;
    let id = text(&browser.get("/v1/me").await.body, "id");
    let own = text(&browser.post("/v1/orgs", json!({ "slug": "gones", "name": "Gone's" })).await.body, "id");
    let key = text(&browser.post("/v1/me/keys", json!({ "name": "laptop" })).await.body, "secret");
    let client = operator.with_key(&key);
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let wish = json!({ "email": "gone@example.com", "role": "admin" });
    let invited = owner.post(&format!("/v1/orgs/{org}/invitations"), &wish).await.unwrap();
    client.post("/v1/invitations:accept", &json!({ "token": invited["token"] })).await.unwrap();

    let shown = client.get("/v1/me:export").await.unwrap();
    assert_eq!(shown["user"]["email"], "gone@example.com");
    assert_eq!(
        (shown["memberships"].as_array().unwrap().len(), shown["sessions"].as_array().unwrap().len()),
        (2, 1)
    );
    assert_eq!(shown["keys"][0]["name"], "laptop");
    assert!(!shown.to_string().contains(&key), "no secret in it");

    let delete = |email: &str| format!("/v1/me?email={email}");
    assert_eq!(code(&client, Method::DELETE, &delete("x@example.com"), Value::Null).await.0, 400);
    let refused = client.call(Method::DELETE, &delete("gone@example.com"), None).await.unwrap();
    assert_eq!((refused.status, text(&refused.body, "code")), (409, "last_owner".into()));
    assert!(text(&refused.body, "detail").contains("gones"), "{}", refused.body);
    assert_eq!(
        client.get("/v1/me:export").await.unwrap()["memberships"].as_array().unwrap().len(),
        2,
        "nothing ended"
    );
    // With somebody to own it, all goes.
    let (heir, heir_id) = join(&operator, &client, &own, "owner").await;
    client.delete(&delete("Gone@Example.com")).await.unwrap();
    for _ in 0..80 {
        if client.call(Method::GET, "/v1/me", None).await.unwrap().status == 401
            && browser.get("/v1/me").await.status == 401
        {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    assert_eq!(code(&client, Method::GET, "/v1/me", Value::Null).await.0, 401);
    assert_eq!(browser.get("/v1/me").await.status, 401);
    assert_eq!(
        operator.call(Method::GET, &format!("/v1/operator/users/{id}"), None).await.unwrap().status,
        404
    );
    let members = heir.all(&format!("/v1/orgs/{own}/members"), "members").await.unwrap();
    assert_eq!(members.len(), 1);
    assert_eq!(members[0]["user_id"], heir_id.as_str());
    assert!(mail(&stack, "gone@example.com", 3).await.subject.contains("deleted"));
    // No table of tenancy knows the address; but what waited for it as an invitation is the organization's.
    let mut db = stack.database("tenancy").await.unwrap();
    let known: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM control.users WHERE to_jsonb(users)::text LIKE '%gone@example.com%') + \
         (SELECT count(*) FROM control.sign_ins WHERE email = 'gone@example.com') + \
         (SELECT count(*) FROM control.credentials WHERE user_id = $1) + (SELECT count(*) FROM control.sessions WHERE user_id = $1)",
    )
    .bind(&id)
    .fetch_one(&mut db)
    .await
    .unwrap();
    assert_eq!(known, 0);
    // Nor does the platform's log, nor any other table of any service; what was sealed for the mail is gone.
    let events = operator.all("/v1/operator/audit-events", "events").await.unwrap();
    assert!(events.len() > 3 && !json!(events).to_string().contains("gone@example.com"), "{events:?}");
    // Who comes back with that address is somebody new.
    let mut again = Browser::new(&stack);
    sign_in(&stack, &mut again, "gone@example.com").await;
    let new = again.get("/v1/me").await.body;
    assert_ne!(text(&new, "id"), id);
    assert_eq!(again.get("/v1/orgs").await.body["orgs"], json!([]));

    // An organization that is to be deleted holds nobody; and without an owner it does not come back.
    let (sole, _) = person(&operator, "sole").await.unwrap();
    let email = text(&sole.get("/v1/me").await.unwrap(), "email");
    let last = organization(&sole).await.unwrap();
    let (guest, _) = join(&operator, &sole, &last, "admin").await;
    let slug = text(&sole.get(&format!("/v1/orgs/{last}")).await.unwrap(), "slug");
    assert_eq!(code(&sole, Method::DELETE, &delete(&email), Value::Null).await, (409, "last_owner".into()));
    sole.delete(&format!("/v1/orgs/{last}?slug={slug}")).await.unwrap();
    sole.delete(&delete(&email)).await.unwrap();
    let members = guest.all(&format!("/v1/orgs/{last}/members"), "members").await.unwrap();
    assert_eq!(members.len(), 1, "{members:?}");
    stack.stop().await.unwrap();
}

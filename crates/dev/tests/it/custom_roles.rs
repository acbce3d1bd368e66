//! Custom roles add, on members, keys and invitations; nobody gives what they do not hold; everybody can be explained.
//! And what is dangerous needs a sign-in of a moment ago.

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use reqwest::Method;
use serde_json::{Value, json};

use crate::people::{Browser, sign_in};
use crate::world::join;

struct Org {
    operator: Client,
    owner: Client,
    id: String,
}

impl Org {
    async fn new(stack: &TestStack, plan: &str) -> Self {
        let operator = stack.operator().unwrap();
        let (owner, _) = person(&operator, "owner").await.unwrap();
        let id = organization(&owner).await.unwrap();
        operator
            .put(&format!("/v1/operator/orgs/{id}/subscription"), &json!({ "plan": plan }))
            .await
            .unwrap();
        Self { operator, owner, id }
    }

    fn at(&self, rest: &str) -> String {
        format!("/v1/orgs/{}{rest}", self.id)
    }

    async fn role(&self, name: &str, permissions: &[&str]) -> String {
        let wish = json!({ "name": name, "permissions": permissions });
        text(&self.owner.post(&self.at("/roles"), &wish).await.unwrap(), "id")
    }

    /// Waits until a call is answered with that status.
    async fn becomes(&self, client: &Client, path: &str, status: u16) {
        for _ in 0..80 {
            if client.call(Method::GET, &self.at(path), None).await.unwrap().status == status {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        panic!("{path} is not answered with {status}");
    }

    async fn explain(&self, actor: &str, permission: &str) -> Value {
        let path = self.at(&format!("/access:explain?actor_id={actor}&permission={permission}"));
        self.owner.get(&path).await.unwrap()
    }
}

async fn code(client: &Client, method: Method, path: &str, body: Value) -> (u16, String) {
    let answer = client.call(method, path, Some(&body)).await.unwrap();
    (answer.status, text(&answer.body, "code"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custom_role_adds_what_it_says_wherever_it_is_given() {
    let stack = TestStack::start().await.unwrap();
    let org = Org::new(&stack, "team").await;
    let (viewer, viewer_id) = join(&org.operator, &org.owner, &org.id, "viewer").await;
    let role = org.role("Auditors", &["audit.read"]).await;
    assert_eq!(viewer.call(Method::GET, &org.at("/audit-events"), None).await.unwrap().status, 403);
    let lacks = org.explain(&viewer_id, "audit.read").await;
    assert_eq!((&lacks["allowed"], &lacks["granted_by"]), (&json!(false), &json!([])), "{lacks}");
    assert!(text(&lacks, "reason").contains("The least role that has it is admin."), "{lacks}");

    // Given, it is there within a second, although a refusal was just answered; and it takes nothing away.
    let given = org.at(&format!("/members/{viewer_id}/roles"));
    let set = org.owner.put(&given, &json!({ "role_ids": [role, role] })).await.unwrap();
    assert_eq!(set, json!({ "role_ids": [role], "grants": ["audit.read"] }));
    org.becomes(&viewer, "/audit-events", 200).await;
    assert_eq!(viewer.call(Method::GET, &org.at("/jobs"), None).await.unwrap().status, 200);
    let why = org.explain(&viewer_id, "AuditEvents.ListAuditEvents").await;
    assert_eq!(
        (&why["allowed"], &why["granted_by"], &why["permission"]),
        (&json!(true), &json!([role]), &json!("audit.read"))
    );
    let members = org.owner.all(&org.at("/members"), "members").await.unwrap();
    assert_eq!(
        members.iter().find(|m| m["user_id"] == viewer_id.as_str()).unwrap()["role_ids"],
        json!([role])
    );

    // Changed, it changes for everybody who has it; on a key, too, and scopes narrow both.
    let wish = json!({ "name": "k", "role": "viewer", "role_ids": [role] });
    let key = org.owner.post(&org.at("/keys"), &wish).await.unwrap();
    assert_eq!(key["key"]["role_ids"], json!([role]));
    let program = org.operator.with_key(&text(&key, "secret"));
    let wish = json!({ "name": "n", "role": "viewer", "role_ids": [role], "scopes": ["jobs.read"] });
    let narrow = org.owner.post(&org.at("/keys"), &wish).await.unwrap();
    let narrow_id = text(&narrow["key"], "id");
    let narrow = org.operator.with_key(&text(&narrow, "secret"));
    org.becomes(&program, "/audit-events", 200).await;
    assert_eq!(narrow.call(Method::GET, &org.at("/audit-events"), None).await.unwrap().status, 403);
    let why = org.explain(&narrow_id, "audit.read").await;
    assert_eq!((&why["allowed"], &why["narrowed"]), (&json!(false), &json!(true)), "{why}");
    let invited = json!({ "email": "new@example.com", "role": "viewer", "role_ids": [role] });
    org.owner.post(&org.at("/invitations"), &invited).await.unwrap();

    let path = org.at(&format!("/roles/{role}"));
    let before = org.owner.get(&path).await.unwrap();
    org.owner.patch(&path, &json!({ "permissions": ["keys.read"] })).await.unwrap();
    for client in [&viewer, &program] {
        org.becomes(client, "/audit-events", 403).await;
        org.becomes(client, "/keys", 200).await;
    }
    let stale =
        org.owner.request(Method::PATCH, &path).header("if-match", format!("\"{}\"", text(&before, "etag")));
    let stale = Client::send(stale.json(&json!({ "name": "Lost" }))).await.unwrap();
    assert_eq!((stale.status, text(&stale.body, "code")), (412, "etag_mismatch".into()));
    // Deleted, it is gone from everybody.
    org.owner.delete(&path).await.unwrap();
    for client in [&viewer, &program] {
        org.becomes(client, "/keys", 403).await;
    }
    let members = org.owner.all(&org.at("/members"), "members").await.unwrap();
    assert!(members.iter().all(|m| m["role_ids"] == json!([])));
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_more_than_they_hold() {
    let stack = TestStack::start().await.unwrap();
    let org = Org::new(&stack, "team").await;
    let (admin, admin_id) = join(&org.operator, &org.owner, &org.id, "admin").await;
    let (_, viewer_id) = join(&org.operator, &org.owner, &org.id, "viewer").await;
    let bills = org.role("Bills", &["billing.read"]).await;
    let denied = (403, "permission_denied".to_owned());
    let (roles, mine) = (org.at("/roles"), org.at(&format!("/members/{admin_id}/roles")));
    // An admin holds no billing.read: neither made, nor changed, deleted, given, taken, put on a key or an invitation.
    let one = org.at(&format!("/roles/{bills}"));
    for (method, path, body) in [
        (Method::POST, &roles, json!({ "name": "Mine", "permissions": ["billing.read"] })),
        (Method::PATCH, &one, json!({ "permissions": ["jobs.read"] })),
        (Method::DELETE, &one, Value::Null),
        (Method::PUT, &mine, json!({ "role_ids": [bills] })),
        (Method::POST, &org.at("/keys"), json!({ "name": "k", "role": "viewer", "role_ids": [bills] })),
        (
            Method::POST,
            &org.at("/invitations"),
            json!({ "email": "a@example.com", "role": "viewer", "role_ids": [bills] }),
        ),
    ] {
        let body = Some(&body).filter(|b| !b.is_null());
        let answer = admin.call(method.clone(), path, body).await.unwrap();
        assert_eq!((answer.status, text(&answer.body, "code")), denied, "{method} {path}");
        assert_eq!(answer.body["permission"], "billing.read");
    }
    // What the service refuses is in the log as what the gateway refuses.
    let up = json!({ "email": "b@example.com", "role": "owner" });
    assert_eq!(code(&admin, Method::POST, &org.at("/invitations"), up).await, denied);
    let in_log = |rpc: &'static str| {
        let admin_id = admin_id.clone();
        move |v: &Value| {
            let of = |e: &Value| text(e, "target_id").ends_with(rpc) && e["actor_id"] == admin_id.as_str();
            v["events"].as_array().is_some_and(|events| events.iter().any(of))
        }
    };
    let log = org.at("/audit-events?action=access.denied&page_size=100");
    for rpc in ["Invitations/CreateInvitation", "Roles/CreateRole", "Keys/CreateKey"] {
        org.owner.until(&log, 20, rpc, in_log(rpc)).await.unwrap();
    }
    let given = org.at(&format!("/members/{viewer_id}/roles"));
    org.owner.put(&given, &json!({ "role_ids": [bills] })).await.unwrap();
    assert_eq!(
        code(&admin, Method::PUT, &given, json!({ "role_ids": [] })).await,
        denied,
        "not taken either"
    );
    // Nor does anybody touch an owner's.
    let owner_id = text(&org.owner.get("/v1/me").await.unwrap(), "id");
    let owners = org.at(&format!("/members/{owner_id}/roles"));
    assert_eq!(code(&admin, Method::PUT, &owners, json!({ "role_ids": [] })).await, denied);

    // What is wrong is said.
    let invalid = (400, "invalid_argument".to_owned());
    for body in [
        json!({ "name": "admin", "permissions": ["jobs.read"] }),
        json!({ "name": "x", "permissions": [] }),
        json!({ "name": "x", "permissions": ["no.such"] }),
        json!({ "name": "a\u{202e}b", "permissions": ["jobs.read"] }),
        json!({ "name": "x", "permissions": vec!["jobs.read"; 65] }),
    ] {
        assert_eq!(code(&org.owner, Method::POST, &roles, body.clone()).await, invalid, "{body}");
    }
    let again = json!({ "name": "BILLS", "permissions": ["jobs.read"] });
    assert_eq!(code(&org.owner, Method::POST, &roles, again).await, (409, "already_exists".into()));
    let other = Org::new(&stack, "team").await;
    let theirs = other.role("Theirs", &["jobs.read"]).await;
    assert_eq!(code(&org.owner, Method::PUT, &given, json!({ "role_ids": [theirs] })).await, invalid);
    assert_eq!(
        org.owner.call(Method::GET, &org.at(&format!("/roles/{theirs}")), None).await.unwrap().status,
        404
    );
    let free = Org::new(&stack, "free").await;
    let wish = json!({ "name": "x", "permissions": ["jobs.read"] });
    let refused = free.owner.call(Method::POST, &free.at("/roles"), Some(&wish)).await.unwrap();
    assert_eq!((refused.status, text(&refused.body, "code")), (402, "feature_not_in_plan".into()));
    stack.stop().await.unwrap();
}

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
    org.owner.post(&exports, &json!({})).await.unwrap();

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

/// A plan without custom roles: they are taken and kept, not given.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_downgrade_custom_roles_are_only_taken() {
    let stack = TestStack::start().await.unwrap();
    let org = Org::new(&stack, "team").await;
    let (_, viewer) = join(&org.operator, &org.owner, &org.id, "viewer").await;
    let (_, other) = join(&org.operator, &org.owner, &org.id, "viewer").await;
    let (guest, _) = person(&org.operator, "guest").await.unwrap();
    let role = org.role("Auditors", &["audit.read"]).await;
    let of = |user: &str| org.at(&format!("/members/{user}/roles"));
    let given = json!({ "role_ids": [role] });
    org.owner.put(&of(&viewer), &given).await.unwrap();
    let email = text(&guest.get("/v1/me").await.unwrap(), "email");
    let wish = json!({ "email": email, "role": "viewer", "role_ids": [role] });
    let invited = org.owner.post(&org.at("/invitations"), &wish).await.unwrap();
    let subscription = format!("/v1/operator/orgs/{}/subscription", org.id);
    org.operator.put(&subscription, &json!({ "plan": "free" })).await.unwrap();

    let not_in_plan = (402, "feature_not_in_plan".to_owned());
    for (method, path, body) in [
        (Method::PUT, of(&other), given.clone()),
        (
            Method::POST,
            org.at("/invitations"),
            json!({ "email": "x@example.com", "role": "viewer", "role_ids": [role] }),
        ),
        (Method::POST, org.at("/keys"), json!({ "name": "k", "role": "viewer", "role_ids": [role] })),
    ] {
        assert_eq!(code(&org.owner, method, &path, body).await, not_in_plan, "{path}");
    }
    org.owner.post(&org.at("/keys"), &json!({ "name": "k", "role": "viewer" })).await.unwrap();
    // Promised before, not given now.
    let token = json!({ "token": text(&invited, "token") });
    let joined = guest.post("/v1/invitations:accept", &token).await.unwrap();
    assert_eq!(joined["member"]["role_ids"], json!([]));
    // Who has it may keep it; and it can be taken.
    org.owner.put(&of(&viewer), &given).await.unwrap();
    let taken = org.owner.put(&of(&viewer), &json!({ "role_ids": [] })).await.unwrap();
    assert_eq!(taken["role_ids"], json!([]));
    assert_eq!(code(&org.owner, Method::PUT, &of(&viewer), given).await, not_in_plan);
    stack.stop().await.unwrap();
}

/// Whoever knocks a thousand times is told of in a handful of events that say how often.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_counted_rather_than_written_a_thousand_times() {
    let stack = TestStack::start().await.unwrap();
    let org = Org::new(&stack, "team").await;
    let (viewer, viewer_id) = join(&org.operator, &org.owner, &org.id, "viewer").await;
    let began = nitejar_common::clock::system().now().timestamp() / 60;
    for _ in 0..60 {
        assert_eq!(viewer.call(Method::GET, &org.at("/keys"), None).await.unwrap().status, 403);
    }
    let minutes = nitejar_common::clock::system().now().timestamp() / 60 - began + 1;
    // The sum is told when the minute is over.
    let told = |v: &Value| -> (u64, u64) {
        let events = v["events"].as_array().cloned().unwrap_or_default();
        let of = events.iter().filter(|e| e["actor_id"] == viewer_id.as_str());
        let counts: Vec<u64> = of.map(|e| text(&e["details"], "count").parse().unwrap_or(1)).collect();
        (counts.len() as u64, counts.iter().sum())
    };
    let path = org.at("/audit-events?action=access.denied&page_size=500");
    let all = org.owner.until(&path, 90, "the sum", |v| told(v).1 == 60).await.unwrap();
    assert!(told(&all).0 <= 6 * u64::try_from(minutes).unwrap(), "{all}");
    stack.stop().await.unwrap();
}

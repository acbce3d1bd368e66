//! Custom roles add, on members, keys and invitations; nobody gives what they do not hold; everybody can be explained.

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::join;

pub(crate) struct Org {
    pub(crate) operator: Client,
    pub(crate) owner: Client,
    pub(crate) id: String,
}

impl Org {
    pub(crate) async fn new(stack: &TestStack, plan: &str) -> Self {
        let operator = stack.operator().unwrap();
        let (owner, _) = person(&operator, "owner").await.unwrap();
        let id = organization(&owner).await.unwrap();
        operator
            .put(&format!("/v1/operator/orgs/{id}/subscription"), &json!({ "plan": plan }))
            .await
            .unwrap();
        Self { operator, owner, id }
    }

    pub(crate) fn at(&self, rest: &str) -> String {
        format!("/v1/orgs/{}{rest}", self.id)
    }

    pub(crate) async fn role(&self, name: &str, permissions: &[&str]) -> String {
        let wish = json!({ "name": name, "permissions": permissions });
        text(&self.owner.post(&self.at("/roles"), &wish).await.unwrap(), "id")
    }

    /// Waits until a call is answered with that status.
    pub(crate) async fn becomes(&self, client: &Client, path: &str, status: u16) {
        for _ in 0..80 {
            if client.call(Method::GET, &self.at(path), None).await.unwrap().status == status {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        panic!("{path} is not answered with {status}");
    }

    pub(crate) async fn explain(&self, actor: &str, permission: &str) -> Value {
        let path = self.at(&format!("/access:explain?actor_id={actor}&permission={permission}"));
        self.owner.get(&path).await.unwrap()
    }
}

pub(crate) async fn code(client: &Client, method: Method, path: &str, body: Value) -> (u16, String) {
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

/// However it is written, a custom role does not pass for a fixed one, or for another.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_compared_as_people_read_it() {
    let stack = TestStack::start().await.unwrap();
    let org = Org::new(&stack, "team").await;
    let roles = org.at("/roles");
    let wish = |name: &str| json!({ "name": name, "permissions": ["jobs.read"] });
    let invalid = (400, "invalid_argument".to_owned());
    let fixed = [
        " OWNER ",
        "Admin",
        "\u{ff2f}\u{ff37}\u{ff2e}\u{ff25}\u{ff32}",
        "\u{43e}wner",
        "ADM\u{406}N",
        "rnember",
    ];
    for name in fixed {
        assert_eq!(code(&org.owner, Method::POST, &roles, wish(name)).await, invalid, "{name}");
    }
    let made = org.owner.post(&roles, &wish("  Night Watch ")).await.unwrap();
    assert_eq!(made["name"], "Night Watch");
    let taken = (409, "already_exists".to_owned());
    for name in ["night watch", " NIGHT WATCH", "\u{ff2e}ight Watch"] {
        assert_eq!(code(&org.owner, Method::POST, &roles, wish(name)).await, taken, "{name}");
    }
    let day = org.role("Day", &["jobs.read"]).await;
    let path = org.at(&format!("/roles/{day}"));
    assert_eq!(code(&org.owner, Method::PATCH, &path, json!({ "name": "Viewer " })).await, invalid);
    assert_eq!(code(&org.owner, Method::PATCH, &path, json!({ "name": "NIGHT watch" })).await, taken);
    // In another case it is still its own.
    let renamed = org.owner.patch(&path, &json!({ "name": " DAY " })).await.unwrap();
    assert_eq!(renamed["name"], "DAY");
    stack.stop().await.unwrap();
}

/// Ownership is handed over by who has it: `org.transfer` by a custom role is not enough, and that is what is explained.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_asks_beside_the_permission_is_explained() {
    let stack = TestStack::start().await.unwrap();
    let org = Org::new(&stack, "team").await;
    let (admin, admin_id) = join(&org.operator, &org.owner, &org.id, "admin").await;
    let (_, heir) = join(&org.operator, &org.owner, &org.id, "viewer").await;
    let role = org.role("Heirs", &["org.transfer"]).await;
    let given = org.at(&format!("/members/{admin_id}/roles"));
    org.owner.put(&given, &json!({ "role_ids": [role] })).await.unwrap();
    let offer = org.at("/ownership-offer");
    let denied = (403, "permission_denied".to_owned());
    assert_eq!(code(&admin, Method::POST, &offer, json!({ "user_id": heir })).await, denied);
    org.owner.post(&offer, &json!({ "user_id": heir })).await.unwrap();
    let ended = admin.call(Method::DELETE, &offer, None).await.unwrap();
    assert_eq!((ended.status, text(&ended.body, "code")), denied);
    let owner = text(&org.owner.get("/v1/me").await.unwrap(), "id");
    for (who, rpc, allowed) in [
        (&admin_id, "Ownership.OfferOwnership", false),
        (&admin_id, "org.transfer", false),
        (&admin_id, "Ownership.AcceptOwnership", false),
        (&admin_id, "Ownership.EndOwnershipOffer", false),
        (&heir, "Ownership.AcceptOwnership", true),
        (&heir, "Ownership.EndOwnershipOffer", true),
        (&owner, "Ownership.OfferOwnership", true),
        (&owner, "Ownership.EndOwnershipOffer", true),
    ] {
        let why = org.explain(who, rpc).await;
        assert_eq!(why["allowed"], allowed, "{rpc} {why}");
        assert!(allowed || text(&why, "reason").contains("this is for"), "{why}");
    }
    let wish = json!({ "name": "k", "role": "viewer", "allowed_networks": ["203.0.113.0/24"] });
    let key = org.owner.post(&org.at("/keys"), &wish).await.unwrap();
    let why = org.explain(&text(&key["key"], "id"), "jobs.read").await;
    assert_eq!(why["allowed"], true);
    let from = "good from 203.0.113.0/24; from other addresses it is refused";
    assert!(text(&why, "reason").contains(from), "{why}");
    stack.stop().await.unwrap();
}

//! An operator reads an organization's data by a grant, within its time, and nothing unseen.

use std::time::{Duration, Instant};

use nitejar_dev::client::{Answer, Client, text};
use nitejar_dev::settings::Tweaks;
use nitejar_dev::test_stack::{TestStack, test_tweaks};
use reqwest::Method;
use serde_json::json;
use sqlx::Connection as _;

use crate::people::{Browser, mail, sign_in};
use crate::world::{Org, join};

fn said(answer: &Answer) -> (u16, String) {
    (answer.status, text(&answer.body, "code"))
}

async fn call(client: &Client, method: Method, path: &str) -> Answer {
    let body = json!({});
    client.call(method.clone(), path, Some(&body).filter(|_| method != Method::GET)).await.unwrap()
}

/// A request of the second operator's that another may approve; what waited before is denied.
pub(crate) async fn requested(stack: &TestStack, owner: &Client, org: &str) -> String {
    let grants = owner.all(&format!("/v1/orgs/{org}/support-grants"), "grants").await.unwrap();
    for grant in grants.iter().filter(|grant| grant["state"] == "requested") {
        let path = format!("/v1/orgs/{org}/support-grants/{}:deny", text(grant, "id"));
        owner.post(&path, &json!({})).await.unwrap();
    }
    ask(&stack.second_operator().unwrap(), org, true).await
}

async fn ask(operator: &Client, org: &str, break_glass: bool) -> String {
    let wish = json!({ "reason": "Ticket 4711: jobs stay queued", "duration_minutes": 30, "break_glass": break_glass });
    let asked = operator.post(&format!("/v1/operator/orgs/{org}/support-grants"), &wish).await.unwrap();
    assert_eq!(asked["state"], "requested");
    text(&asked, "id")
}

/// All that may happen to grants. For the coverage of audit actions.
pub(crate) async fn deeds(stack: &TestStack, owner: &Client, org: &str) {
    let operator = stack.operator().unwrap();
    let grant = |id: &str, verb: &str| format!("/v1/orgs/{org}/support-grants/{id}:{verb}");
    let id = requested(stack, owner, org).await;
    owner.post(&grant(&id, "deny"), &json!({})).await.unwrap();
    let id = ask(&operator, org, false).await;
    owner.post(&grant(&id, "approve"), &json!({})).await.unwrap();
    owner.post(&grant(&id, "revoke"), &json!({})).await.unwrap();
}

impl Org {
    fn grant(&self, id: &str, verb: &str) -> String {
        self.at(&format!("/support-grants/{id}:{verb}"))
    }

    async fn address(&self) -> String {
        text(&self.owner.get("/v1/me").await.unwrap(), "email")
    }

    async fn state(&self, id: &str) -> String {
        let grants = self.owner.all(&self.at("/support-grants"), "grants").await.unwrap();
        text(grants.iter().find(|grant| grant["id"] == id).unwrap(), "state")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_reads_by_a_grant_alone_and_each_time_it_is_written_down_before() {
    let mut stack = TestStack::start().await.unwrap();
    let second_gateway = stack.another_gateway().await.unwrap();
    let (operator, colleague) = (stack.operator().unwrap(), stack.second_operator().unwrap());
    let (org, other) = (Org::new(&operator).await, Org::new(&operator).await);
    let (admin, _) = join(&operator, &org.owner, &org.id, "admin").await;
    let list = org.at("/agents");
    let nothing = call(&operator, Method::GET, &list).await;
    assert_eq!(said(&nothing), (404, "not_found".into()));

    let id = ask(&operator, &org.id, false).await;
    let told = mail(&stack, &org.address().await, 1).await;
    assert!(told.subject.contains("Org") && told.text.contains("sandbox"), "{told:?}");
    assert!(told.text.contains("Ticket 4711: jobs stay queued") && told.text.contains(&id), "{told:?}");
    let again = json!({ "reason": "Ticket 4711, again", "duration_minutes": 5 });
    let path = format!("/v1/operator/orgs/{}/support-grants", org.id);
    let refused = operator.call(Method::POST, &path, Some(&again)).await.unwrap();
    assert_eq!(said(&refused), (409, "conflict".into()), "one at a time");
    for wrong in
        [json!({ "reason": "because", "duration_minutes": 5 }), json!({ "reason": "Ticket 4711, again" })]
    {
        assert_eq!(operator.call(Method::POST, &path, Some(&wrong)).await.unwrap().status, 400, "{wrong}");
    }
    let long = json!({ "reason": "Ticket 4711, again", "duration_minutes": 481 });
    assert_eq!(colleague.call(Method::POST, &path, Some(&long)).await.unwrap().status, 400);
    // Asked is not approved; and neither an admin approves it, nor an operator, nor another organization's owner.
    assert_eq!(said(&call(&operator, Method::GET, &list).await), said(&nothing));
    assert_eq!(org.state(&id).await, "requested");
    assert_eq!(admin.all(&org.at("/support-grants"), "grants").await.unwrap().len(), 1);
    let refused = call(&admin, Method::POST, &org.grant(&id, "approve")).await;
    assert_eq!((refused.status, &refused.body["permission"]), (403, &json!("support.write")));
    assert_eq!(call(&operator, Method::POST, &org.grant(&id, "approve")).await.status, 404);
    let by_operator = format!("{path}/{id}:approve");
    assert_eq!(said(&call(&operator, Method::POST, &by_operator).await), (403, "permission_denied".into()));
    assert_eq!(said(&call(&colleague, Method::POST, &by_operator).await), (409, "conflict".into()));
    assert_eq!(call(&other.owner, Method::POST, &other.grant(&id, "approve")).await.status, 404);

    let approved = org.owner.post(&org.grant(&id, "approve"), &json!({})).await.unwrap();
    assert_eq!(approved["state"], "approved");
    assert_eq!(org.owner.post(&org.grant(&id, "approve"), &json!({})).await.unwrap(), approved, "once");
    let elsewhere = operator.at(&second_gateway);
    let mut reads = Vec::new();
    for rest in ["", "/agents", "/members", "/work-items", "/jobs?page_size=1"] {
        let answer = call(&elsewhere, Method::GET, &org.at(rest)).await;
        assert_eq!(answer.status, 200, "{rest}: {}", answer.body);
        // Nothing needs to be waited for: it stood there before the answer.
        reads.push((org.at(rest.split('?').next().unwrap()), text(&answer.body, "request_id")));
        let log = org.events("support.accessed").await;
        assert_eq!(log.len(), reads.len(), "{rest}");
        let last = log.last().unwrap();
        assert_eq!((&last["actor_kind"], &last["actor_id"]), (&json!("operator"), &json!("sandbox")));
        assert_eq!(last["details"], json!({ "grant": id, "path": reads.last().unwrap().0 }));
        assert!(text(last, "target_id").starts_with("/nitejar."), "{last}");
    }
    // A viewer reads no log, keys, secrets or bills; and nothing is changed by whatever way.
    for rest in ["/audit-events", "/keys", "/secrets", "/support-grants", "/subscription"] {
        let refused = call(&operator, Method::GET, &org.at(rest)).await;
        assert_eq!(said(&refused), (403, "permission_denied".into()), "{rest}");
    }
    for (method, rest) in [
        (Method::POST, "/agents"),
        (Method::PATCH, ""),
        (Method::POST, ":leave"),
        (Method::POST, "/work-items"),
        (Method::DELETE, "/ownership-offer"),
    ] {
        let body = json!({ "handle": "x", "title": "x", "agent_id": "agent_01h2xcejqtf2nbrexx3vqjhp41" });
        let body = if rest == "/agents" {
            json!({ "handle": "xx" })
        } else if rest == "/work-items" {
            body
        } else {
            json!({})
        };
        let body = Some(&body).filter(|_| method != Method::DELETE);
        let refused = operator.call(method.clone(), &org.at(rest), body).await.unwrap();
        assert_eq!(refused.status, 403, "{method} {rest}: {}", refused.body);
    }
    // The grant is its operator's and its organization's.
    assert_eq!(said(&call(&colleague, Method::GET, &list).await), said(&nothing));
    assert_eq!(said(&call(&operator, Method::GET, &other.at("/agents")).await), said(&nothing));

    // It ends at every gateway.
    org.owner.post(&org.grant(&id, "revoke"), &json!({})).await.unwrap();
    let began = Instant::now();
    while call(&elsewhere, Method::GET, &list).await.status != 404 {
        assert!(began.elapsed() < Duration::from_secs(1), "it goes on at the other gateway");
    }
    assert_eq!(said(&call(&operator, Method::GET, &list).await), said(&nothing));
    let revoked = org.owner.all(&org.at("/support-grants"), "grants").await.unwrap();
    assert_eq!(
        (text(&revoked[0], "state"), text(&revoked[0], "operator")),
        ("revoked".into(), "sandbox".into())
    );
    assert_eq!(
        said(&call(&org.owner, Method::POST, &org.grant(&id, "approve")).await),
        (409, "conflict".into())
    );
    for action in ["support.requested", "support.approved", "support.revoked"] {
        let events = org.events_come(action, 1).await;
        assert_eq!((events.len(), &events[0]["target_id"]), (1, &json!(id)), "{action}");
    }
    assert!(other.events("support.accessed").await.is_empty());
    assert_eq!(org.owner.get(&org.at("/audit-events:verify")).await.unwrap()["valid"], true);
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_ends_with_its_time_and_a_request_lapses() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let org = Org::new(&operator).await;
    let mut db = stack.database("tenancy").await.unwrap();
    let number: i64 = sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
        .bind(&org.id)
        .fetch_one(&mut db)
        .await
        .unwrap();
    // Time goes by, for the directory and for the organization itself.
    let mut pass = async |id: &str| {
        for table in [
            "control.support_grants SET expires_at = expires_at - interval '1 day' WHERE grant_id",
            &format!("t_{number}.support_grants SET expires_at = expires_at - interval '1 day' WHERE id"),
        ] {
            let sql = format!("UPDATE {table} = $1");
            sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).execute(&mut db).await.unwrap();
        }
    };
    let id = ask(&operator, &org.id, false).await;
    org.owner.post(&org.grant(&id, "approve"), &json!({})).await.unwrap();
    let read = org.at("/members");
    assert_eq!(call(&operator, Method::GET, &read).await.status, 200);
    pass(&id).await;
    assert_eq!(call(&operator, Method::GET, &read).await.status, 404);
    assert_eq!(org.state(&id).await, "expired");
    for verb in ["approve", "deny", "revoke"] {
        let refused = call(&org.owner, Method::POST, &org.grant(&id, verb)).await;
        assert_eq!(said(&refused), (409, "conflict".into()), "{verb}");
    }
    let lapsed = ask(&operator, &org.id, false).await;
    pass(&lapsed).await;
    assert_eq!(org.state(&lapsed).await, "expired");
    assert_eq!(call(&org.owner, Method::POST, &org.grant(&lapsed, "approve")).await.status, 409);
    // A lapsed one is in nobody's way; a denied one opens nothing.
    let denied = ask(&operator, &org.id, false).await;
    org.owner.post(&org.grant(&denied, "deny"), &json!({})).await.unwrap();
    assert_eq!(call(&org.owner, Method::POST, &org.grant(&denied, "approve")).await.status, 409);
    assert_eq!(call(&operator, Method::GET, &read).await.status, 404);
    let ids: Vec<String> = org
        .owner
        .all(&org.at("/support-grants?page_size=1"), "grants")
        .await
        .unwrap()
        .iter()
        .map(|grant| text(grant, "id"))
        .collect();
    assert_eq!(ids, [denied, lapsed, id], "newest first, page by page");
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_glass_is_broken_by_two_operators_and_the_owners_hear_of_it() {
    let stack = TestStack::start().await.unwrap();
    let (operator, colleague) = (stack.operator().unwrap(), stack.second_operator().unwrap());
    let org = Org::new(&operator).await;
    let id = ask(&operator, &org.id, true).await;
    let path = format!("/v1/operator/orgs/{}/support-grants/{id}:approve", org.id);
    let alone = call(&operator, Method::POST, &path).await;
    assert_eq!(said(&alone), (403, "permission_denied".into()), "{}", alone.body);
    let tried = org.events_come("access.denied", 1).await.remove(0);
    assert_eq!((text(&tried, "actor_id"), text(&tried, "actor_kind")), ("sandbox".into(), "operator".into()));
    assert!(text(&tried, "target_id").ends_with("Support/ApproveBreakGlass"), "{tried}");
    assert_eq!(call(&operator, Method::GET, &org.at("/agents")).await.status, 404);
    assert_eq!(call(&org.owner, Method::POST, &path).await.status, 403, "it is for operators");
    let done = call(&colleague, Method::POST, &path).await;
    assert_eq!((&done.body["state"], &done.body["decided_by"]), (&json!("approved"), &json!("second")));
    let told = mail(&stack, &org.address().await, 2).await;
    assert!(told.subject.contains("Support can read") && told.text.contains("second"), "{told:?}");
    assert_eq!(call(&operator, Method::GET, &org.at("/agents")).await.status, 200);
    assert_eq!(
        call(&colleague, Method::GET, &org.at("/agents")).await.status,
        404,
        "who approves does not read"
    );
    let approved = org.events_come("support.approved", 1).await;
    assert_eq!(
        (&approved[0]["actor_id"], &approved[0]["actor_kind"]),
        (&json!("second"), &json!("operator"))
    );
    assert_eq!(approved[0]["details"], json!({ "operator": "sandbox", "break_glass": "true" }));
    // Operators see what became of it, and owners end it.
    let seen =
        colleague.all(&format!("/v1/operator/orgs/{}/support-grants", org.id), "grants").await.unwrap();
    assert_eq!(text(&seen[0], "state"), "approved");
    org.owner.post(&org.grant(&id, "revoke"), &json!({})).await.unwrap();
    assert_eq!(call(&operator, Method::GET, &org.at("/agents")).await.status, 404);
    let none = "/v1/operator/orgs/org_01h2xcejqtf2nbrexx3vqjhp41/support-grants";
    assert_eq!(call(&operator, Method::GET, none).await.status, 404);
    stack.stop().await.unwrap();
}

/// A suspended customer needs help, too; and nothing but reading comes of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_organization_lets_support_in() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let org = Org::new(&operator).await;
    let suspend = format!("/v1/operator/orgs/{}:suspend", org.id);
    operator.post(&suspend, &json!({ "reason": "unpaid" })).await.unwrap();
    let id = ask(&operator, &org.id, false).await;
    let approved = org.owner.post(&org.grant(&id, "approve"), &json!({})).await.unwrap();
    assert_eq!(approved["state"], "approved");
    assert_eq!(call(&operator, Method::GET, &org.at("/jobs")).await.status, 200);
    stack.stop().await.unwrap();
}

/// Outside of a sandbox an operator can't get a key with which they would be an owner.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_makes_no_keys_for_people() {
    let stack = TestStack::start_with(Tweaks { sandbox: false, ..test_tweaks() }).await.unwrap();
    let operator = stack.operator().unwrap();
    let ada = json!({ "email": "ada@example.com", "name": "Ada" });
    let ada = text(&operator.post("/v1/operator/users", &ada).await.unwrap(), "id");
    let path = format!("/v1/operator/users/{ada}/keys");
    let refused = operator.call(Method::POST, &path, Some(&json!({ "name": "k" }))).await.unwrap();
    assert_eq!(said(&refused), (403, "permission_denied".into()));
    assert!(text(&refused.body, "detail").contains("in a sandbox only"), "{}", refused.body);
    // Ada makes her own.
    let mut browser = Browser::new(&stack);
    sign_in(&stack, &mut browser, "ada@example.com").await;
    let made = browser.post("/v1/me/keys", json!({ "name": "k" })).await;
    assert_eq!((made.status, &made.body["key"]["created_by"]), (200, &json!(ada)), "{}", made.body);
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_recorded_is_not_read_and_what_is_followed_ends_with_the_grant() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let org = Org::new(&operator).await;
    let agent =
        json!({ "handle": "worker", "config": { "command": "while true; do echo on; sleep 0.2; done" } });
    let agent = org.owner.post(&org.at("/agents"), &agent).await.unwrap();
    let item = json!({ "agent_id": text(&agent, "id"), "title": "t" });
    let item = org.owner.post(&org.at("/work-items"), &item).await.unwrap();
    let job = org.at(&format!("/jobs/{}", item["job_ids"][0].as_str().unwrap()));
    org.owner.until(&job, 30, "its start", |v| v["state"] == "running").await.unwrap();
    let id = ask(&operator, &org.id, false).await;
    org.owner.post(&org.grant(&id, "approve"), &json!({})).await.unwrap();
    assert_eq!(call(&operator, Method::GET, &job).await.status, 200);

    // Somebody holds the log's end: no event is taken, no data leaves; to its own people it goes on.
    let mut audit = stack.database("audit").await.unwrap();
    let number: i64 = sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
        .bind(&org.id)
        .fetch_one(&mut audit)
        .await
        .unwrap();
    let mut held = audit.begin().await.unwrap();
    let lock = format!("LOCK TABLE t_{number}.chain_head IN ACCESS EXCLUSIVE MODE");
    sqlx::query(sqlx::AssertSqlSafe(lock)).execute(&mut *held).await.unwrap();
    let refused = call(&operator, Method::GET, &job).await;
    assert_eq!(said(&refused), (503, "unavailable".into()), "{}", refused.body);
    assert_eq!(call(&org.owner, Method::GET, &job).await.status, 200);
    held.rollback().await.unwrap();
    for _ in 0..100 {
        if call(&operator, Method::GET, &job).await.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(call(&operator, Method::GET, &job).await.status, 200);

    let log = operator.request(Method::GET, &format!("{job}/logs?follow=true")).send().await.unwrap();
    assert_eq!(log.status(), 200);
    org.owner.post(&org.grant(&id, "revoke"), &json!({})).await.unwrap();
    let log = tokio::time::timeout(Duration::from_secs(30), log.text()).await.expect("it goes on").unwrap();
    assert!(log.contains("event: error") && log.contains("\"code\":\"not_found\""), "{log}");
    let last = org.events("support.accessed").await.pop().unwrap();
    assert!(text(&last, "target_id").ends_with("/StreamJobLogs"), "{last}");
    org.owner.post(&format!("{job}:cancel"), &json!({})).await.unwrap();
    stack.stop().await.unwrap();
}

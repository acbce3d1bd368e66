//! An organization in which everything exists once: a victim to attack, and ids to ask for.

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, connect_github, organization, person};
use serde_json::{Value, json};

use crate::dns::Dns;

pub(crate) struct World {
    pub(crate) owner: Client,
    pub(crate) org: String,
    pub(crate) member: Client,
    pub(crate) member_id: String,
    pub(crate) agent: String,
    pub(crate) work_item: String,
    pub(crate) job: String,
    pub(crate) key: String,
    /// What that key opens with.
    pub(crate) key_secret: String,
    pub(crate) invitation: String,
    /// What that invitation is accepted with.
    pub(crate) invitation_token: String,
    pub(crate) integration: String,
    pub(crate) event: String,
    pub(crate) role: String,
    pub(crate) export: String,
    pub(crate) domain: String,
    pub(crate) grant: String,
    /// The token of the agent's runner.
    pub(crate) runner: String,
}

impl World {
    pub(crate) async fn new(stack: &TestStack) -> Self {
        Self::named(stack, "victim").await
    }

    /// Whatever can bear a text of one's own bears this name.
    pub(crate) async fn named(stack: &TestStack, whose: &str) -> Self {
        let operator = stack.operator().unwrap();
        let (owner, _) = person(&operator, "owner").await.unwrap();
        let org = organization(&owner).await.unwrap();
        let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
        operator
            .put(&format!("/v1/operator/orgs/{org}/subscription"), &json!({ "plan": "team" }))
            .await
            .unwrap();
        let (member, member_id) = join(&operator, &owner, &org, "member").await;
        owner
            .put(&at("/secrets/TOKEN"), &json!({ "value": format!("{whose}s-secret-value") }))
            .await
            .unwrap();
        let config = format!("echo {whose}; echo again >&2; echo done > $NITEJAR_RESULT");
        let config = json!({ "command": config, "secrets": ["TOKEN"], "on_opened": true });
        let agent =
            owner.post(&at("/agents"), &json!({ "handle": "worker", "config": config })).await.unwrap();
        let agent = text(&agent, "id");
        let item = json!({ "agent_id": agent, "title": format!("{whose}'s title") });
        let item = owner.post(&at("/work-items"), &item).await.unwrap();
        let job = item["job_ids"][0].as_str().unwrap().to_owned();
        finished(&owner, &org, &job).await;
        let key = owner
            .post(&at("/keys"), &json!({ "name": format!("{whose}'s"), "role": "viewer" }))
            .await
            .unwrap();
        let invited = json!({ "email": "someone@example.com", "role": "viewer" });
        let invited = owner.post(&at("/invitations"), &invited).await.unwrap();
        let role = json!({ "name": format!("{whose}'s"), "permissions": ["audit.read"] });
        let role = text(&owner.post(&at("/roles"), &role).await.unwrap(), "id");
        let given = json!({ "role_ids": [role] });
        owner.put(&at(&format!("/members/{member_id}/roles")), &given).await.unwrap();
        let domain = json!({ "name": format!("{whose}-{}.example.com", &org[20..]) });
        let domain = text(&owner.post(&at("/domains"), &domain).await.unwrap(), "id");
        let second = stack.second_operator().unwrap();
        let grant = json!({ "reason": format!("ticket 1: {whose}'s trouble"), "duration_minutes": 5 });
        let grant = second.post(&format!("/v1/operator/orgs/{org}/support-grants"), &grant).await.unwrap();
        let grant = text(&grant, "id");
        let github = stack.github_client().unwrap();
        let repositories = [format!("{}/repo", &org[20..])];
        connect_github(&owner, &github, &org, &repositories).await.unwrap();
        let integrations = owner.get(&at("/integrations")).await.unwrap();
        let events = owner
            .until(&at("/audit-events"), 30, "events", |v| {
                v["events"].as_array().is_some_and(|l| !l.is_empty())
            })
            .await
            .unwrap();
        let export = text(&owner.post(&at("/exports"), &json!({})).await.unwrap(), "id");
        let ready = |v: &Value| v["state"] == "ready";
        owner.until(&at(&format!("/exports/{export}")), 30, "the export", ready).await.unwrap();
        let sprite = text(&owner.get(&at(&format!("/agents/{agent}"))).await.unwrap()["sprite"], "id");
        let runner = std::fs::read_to_string(stack.places.sprites.join(sprite).join("token")).unwrap();
        Self {
            owner,
            member,
            member_id,
            agent,
            work_item: text(&item, "id"),
            job,
            key: text(&key["key"], "id"),
            key_secret: text(&key, "secret"),
            invitation: text(&invited["invitation"], "id"),
            invitation_token: text(&invited, "token"),
            integration: text(&integrations["integrations"][0], "id"),
            role,
            export,
            domain,
            grant,
            event: text(&events["events"][0], "id"),
            runner,
            org,
        }
    }

    /// All that its owner can read, by name. What it is told by others arrives a moment later: wait for it first.
    pub(crate) async fn everything(&self) -> Vec<(String, Value)> {
        let read = async |rest: String| {
            let mut value = self.owner.get(&format!("/v1/orgs/{}{rest}", self.org)).await.unwrap();
            forget_reading(&mut value);
            (rest, value)
        };
        let mut rest: Vec<String> = LISTS.iter().map(|list| (*list).to_owned()).collect();
        rest.extend(
            [
                "/audit-events?page_size=500",
                "/audit-events:verify",
                "/usage",
                "/usage/entries?meter=jobs&page_size=500",
                "/usage/entries?meter=agents&page_size=500",
                "/secrets/TOKEN/versions",
                "/exports",
            ]
            .map(str::to_owned),
        );
        rest.extend([
            format!("/agents/{}", self.agent),
            format!("/work-items/{}", self.work_item),
            format!("/jobs/{}/logs", self.job),
            format!("/roles/{}", self.role),
            format!("/domains/{}", self.domain),
            format!("/exports/{}", self.export),
            format!("/exports/{}/parts/1", self.export),
        ]);
        futures_util::future::join_all(rest.into_iter().map(read)).await
    }

    /// What the victim sees; attacks must not change it.
    pub(crate) async fn snapshot(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for rest in LISTS {
            all.push(self.owner.get(&format!("/v1/orgs/{}{rest}", self.org)).await.unwrap());
        }
        all
    }
}

/// What an organization has, by list.
const LISTS: [&str; 14] = [
    "",
    "/members",
    "/roles",
    "/invitations",
    "/keys",
    "/secrets",
    "/agents",
    "/work-items",
    "/jobs",
    "/integrations",
    "/sprites",
    "/subscription",
    "/domains",
    "/support-grants",
];

/// What reading changes by itself: the count of API calls, and when a key was used.
fn forget_reading(value: &mut Value) {
    if let Some(meters) = value.get_mut("meters").and_then(Value::as_array_mut) {
        meters.retain(|meter| meter["meter"] != "api_calls");
    }
    for key in value.get_mut("keys").and_then(Value::as_array_mut).into_iter().flatten() {
        key.as_object_mut().unwrap().remove("last_used_at");
    }
}

/// An organization with an owner, and nothing else.
pub(crate) struct Org {
    pub(crate) owner: Client,
    pub(crate) id: String,
}

impl Org {
    pub(crate) async fn new(operator: &Client) -> Self {
        let (owner, _) = person(operator, "owner").await.unwrap();
        Self { id: organization(&owner).await.unwrap(), owner }
    }

    pub(crate) fn at(&self, rest: &str) -> String {
        format!("/v1/orgs/{}{rest}", self.id)
    }

    pub(crate) async fn events(&self, action: &str) -> Vec<Value> {
        self.owner.all(&self.at(&format!("/audit-events?action={action}")), "events").await.unwrap()
    }

    /// Until that many are there: the outbox brings them.
    pub(crate) async fn events_come(&self, action: &str, count: usize) -> Vec<Value> {
        for _ in 0..200 {
            let events = self.events(action).await;
            if events.len() >= count {
                return events;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("{count} events {action} did not come");
    }
}

/// A new person with a role in an organization.
pub(crate) async fn join(operator: &Client, owner: &Client, org: &str, role: &str) -> (Client, String) {
    let (client, id) = person(operator, role).await.unwrap();
    let email = text(&client.get("/v1/me").await.unwrap(), "email");
    let invited = owner
        .post(&format!("/v1/orgs/{org}/invitations"), &json!({ "email": email, "role": role }))
        .await
        .unwrap();
    client.post("/v1/invitations:accept", &json!({ "token": text(&invited, "token") })).await.unwrap();
    (client, id)
}

/// A domain that is verified; people join by it who ask, where there is a name server that has its record.
pub(crate) async fn verified_domain(
    stack: &TestStack,
    dns: Option<&mut Dns>,
    owner: &Client,
    org: &str,
    name: &str,
) {
    let domain = owner.post(&format!("/v1/orgs/{org}/domains"), &json!({ "name": name })).await.unwrap();
    if let Some(dns) = dns {
        dns.add(&text(&domain["challenge"], "name"), &text(&domain["challenge"], "value"));
    }
    found_record(stack, org, name).await;
}

/// One that is claimed is verified from now on, as if a name server had been asked.
pub(crate) async fn found_record(stack: &TestStack, org: &str, name: &str) {
    let mut db = stack.database("tenancy").await.unwrap();
    let number = crate::digests::number(&mut db, org).await;
    let verified = format!(
        "UPDATE t_{number}.domains SET verified_at = now(), joining = 'suggested', role = 'member' WHERE name = '{name}'; \
         INSERT INTO control.domains VALUES ('{name}', '{org}', 'suggested', 'member')"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(verified)).execute(&mut db).await.unwrap();
}

/// Waits for a job's end and answers it.
pub(crate) async fn finished(client: &Client, org: &str, job: &str) -> Value {
    let ended =
        |v: &Value| matches!(v["state"].as_str(), Some("completed" | "failed" | "cancelled" | "dead"));
    client.until(&format!("/v1/orgs/{org}/jobs/{job}"), 60, "the job's end", ended).await.unwrap()
}

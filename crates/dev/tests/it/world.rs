//! An organization in which everything exists once: a victim to attack, and ids to ask for.

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, connect_github, organization, person};
use serde_json::{Value, json};

pub(crate) struct World {
    pub(crate) owner: Client,
    pub(crate) org: String,
    pub(crate) member: Client,
    pub(crate) member_id: String,
    pub(crate) agent: String,
    pub(crate) work_item: String,
    pub(crate) job: String,
    pub(crate) key: String,
    pub(crate) invitation: String,
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
        let operator = stack.operator().unwrap();
        let (owner, _) = person(&operator, "owner").await.unwrap();
        let org = organization(&owner).await.unwrap();
        let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
        operator
            .put(&format!("/v1/operator/orgs/{org}/subscription"), &json!({ "plan": "team" }))
            .await
            .unwrap();
        let (member, member_id) = join(&operator, &owner, &org, "member").await;
        owner.put(&at("/secrets/TOKEN"), &json!({ "value": "victims-secret-value" })).await.unwrap();
        let config = json!({ "command": "echo victim; echo again >&2; echo done > $NITEJAR_RESULT", "secrets": ["TOKEN"], "on_opened": true });
        let agent =
            owner.post(&at("/agents"), &json!({ "handle": "worker", "config": config })).await.unwrap();
        let agent = text(&agent, "id");
        let item = json!({ "agent_id": agent, "title": "victim's title" });
        let item = owner.post(&at("/work-items"), &item).await.unwrap();
        let job = item["job_ids"][0].as_str().unwrap().to_owned();
        finished(&owner, &org, &job).await;
        let key = owner.post(&at("/keys"), &json!({ "name": "victim's", "role": "viewer" })).await.unwrap();
        let invited = json!({ "email": "someone@example.com", "role": "viewer" });
        let invited = owner.post(&at("/invitations"), &invited).await.unwrap();
        let role = json!({ "name": "victim's", "permissions": ["audit.read"] });
        let role = text(&owner.post(&at("/roles"), &role).await.unwrap(), "id");
        let given = json!({ "role_ids": [role] });
        owner.put(&at(&format!("/members/{member_id}/roles")), &given).await.unwrap();
        let domain = json!({ "name": format!("victim-{}.example.com", &org[20..]) });
        let domain = text(&owner.post(&at("/domains"), &domain).await.unwrap(), "id");
        let second = stack.second_operator().unwrap();
        let grant = json!({ "reason": "ticket 1: victim's trouble", "duration_minutes": 5 });
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
            invitation: text(&invited["invitation"], "id"),
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

    /// What the victim sees; attacks must not change it.
    pub(crate) async fn snapshot(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for rest in [
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
        ] {
            all.push(self.owner.get(&format!("/v1/orgs/{}{rest}", self.org)).await.unwrap());
        }
        all
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

/// Waits for a job's end and answers it.
pub(crate) async fn finished(client: &Client, org: &str, job: &str) -> Value {
    let ended =
        |v: &Value| matches!(v["state"].as_str(), Some("completed" | "failed" | "cancelled" | "dead"));
    client.until(&format!("/v1/orgs/{org}/jobs/{job}"), 60, "the job's end", ended).await.unwrap()
}

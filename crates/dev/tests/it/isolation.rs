//! Every endpoint, attacked from another organization. After each attack the victim is asked.

use nitejar_dev::test_stack::{TestStack, organization, person};
use nitejar_proto::policy::Scope;
use serde_json::json;

use crate::endpoints::{ENDPOINTS, Ids};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn no_endpoint_reaches_another_organization() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let victim = World::new(&stack).await;
    let (attacker, _) = person(&operator, "attacker").await.unwrap();
    let own = organization(&attacker).await.unwrap();
    operator.put(&format!("/v1/operator/orgs/{own}/subscription"), &json!({ "plan": "team" })).await.unwrap();
    let key = attacker
        .post(&format!("/v1/orgs/{own}/keys"), &json!({ "name": "k", "role": "admin" }))
        .await
        .unwrap();
    let key = operator.with_key(key["secret"].as_str().unwrap());
    let before = victim.snapshot().await;

    let theirs = Ids::of(&victim);
    let mixed = Ids { org: own.clone(), ..theirs.clone() };
    for endpoint in ENDPOINTS.iter().filter(|e| e.policy().scope == Scope::Tenant) {
        for (who, client) in [("person", &attacker), ("key", &key)] {
            // Their organization: as if it did not exist.
            let body = endpoint.body(&theirs);
            let answer =
                client.call(endpoint.method(), &endpoint.path(&theirs), body.as_ref()).await.unwrap();
            assert_eq!(answer.status, 404, "{} by {who}: {}", endpoint.rpc, answer.body);
            assert_eq!(answer.body["code"], "not_found");
            let unknown = Ids::of_nothing("org_01h2xcejqtf2nbrexx3vqjhp41");
            let body = endpoint.body(&unknown);
            let nothing =
                client.call(endpoint.method(), &endpoint.path(&unknown), body.as_ref()).await.unwrap();
            let shape = |v: &serde_json::Value| (v["code"].clone(), v["title"].clone(), v["status"].clone());
            assert_eq!(
                shape(&answer.body),
                shape(&nothing.body),
                "{}: there and not there look the same",
                endpoint.rpc
            );
            // Their things in one's own organization.
            let body = endpoint.body(&mixed);
            let leave = endpoint.rpc == "Members.LeaveOrg";
            let answer = if leave {
                continue;
            } else {
                client.call(endpoint.method(), &endpoint.path(&mixed), body.as_ref()).await.unwrap()
            };
            let text = answer.body.to_string();
            assert!(!text.contains("victim"), "{} by {who} shows the victim's: {text}", endpoint.rpc);
            let names_a_thing = endpoint.policy().http.as_ref().unwrap().template.matches('{').count() > 1
                && !endpoint.rpc.starts_with("Secrets.");
            if names_a_thing {
                assert!(answer.status >= 400, "{} by {who}: {text}", endpoint.rpc);
            }
        }
        assert_eq!(victim.snapshot().await, before, "{} changed the victim", endpoint.rpc);
    }
    // A runner's token opens its own Sprite's jobs only.
    let other = World::new(&stack).await;
    let runner = operator.with_key(&other.runner);
    for endpoint in
        ENDPOINTS.iter().filter(|e| e.policy().scope == Scope::Runner && e.rpc != "Runner.ClaimJobs")
    {
        let body = endpoint.body(&theirs);
        let answer = runner.call(endpoint.method(), &endpoint.path(&theirs), body.as_ref()).await.unwrap();
        assert_eq!(answer.body["code"], "stale_lease", "{}: {}", endpoint.rpc, answer.body);
        assert_eq!(victim.snapshot().await, before, "{} changed the victim", endpoint.rpc);
    }
    stack.stop().await.unwrap();
}

/// Someone else's installation can't be bound, whatever number a browser brings back.
#[tokio::test(flavor = "multi_thread")]
async fn an_installation_is_bound_once_and_proved() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let github = stack.github_client().unwrap();
    let victim = World::new(&stack).await;
    let before = victim.snapshot().await;
    let bound = before[8]["integrations"][0]["installation_id"].as_u64().unwrap();
    let (attacker, _) = person(&operator, "attacker").await.unwrap();
    let own = organization(&attacker).await.unwrap();
    let start = async || {
        let started = attacker
            .post(&format!("/v1/orgs/{own}/integrations:startGithubInstall"), &json!({}))
            .await
            .unwrap();
        started["url"].as_str().unwrap().split("state=").nth(1).unwrap().to_owned()
    };
    let install = async |user: &str| {
        let wish = json!({ "account": "evil", "repositories": ["evil/repo"], "user": user });
        github.post("/_fake/installations", &wish).await.unwrap()
    };
    let finish = async |id: u64, code: &str, state: &str| {
        let path = format!("/v1/github/setup?installation_id={id}&code={code}&state={state}");
        attacker.call(reqwest::Method::GET, &path, None).await.unwrap()
    };
    // A link of the attacker's that the victim follows binds nothing, nor does it without anybody signed in.
    let theirs = install("victim").await;
    let lured = format!(
        "/v1/github/setup?installation_id={}&code={}&state={}",
        theirs["installation_id"],
        theirs["code"].as_str().unwrap(),
        start().await
    );
    for (who, status) in [(&victim.owner, 409), (&operator.with_key(""), 401)] {
        assert_eq!(who.call(reqwest::Method::GET, &lured, None).await.unwrap().status, status);
    }
    // With a code of one's own, another's number: GitHub does not list it.
    let mine = install("eve").await;
    let refused = finish(bound, mine["code"].as_str().unwrap(), &start().await).await;
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (403, &json!("permission_denied")),
        "{}",
        refused.body
    );
    // A person who really administers the victim's installation, but for another organization of ours.
    let account = before[8]["integrations"][0]["account"].as_str().unwrap();
    let same_admin = install(&format!("{account}-admin")).await;
    let state = start().await;
    let refused = finish(bound, same_admin["code"].as_str().unwrap(), &state).await;
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (409, &json!("installation_bound")),
        "{}",
        refused.body
    );
    // A state is good once.
    let again = install("eve").await;
    let refused =
        finish(again["installation_id"].as_u64().unwrap(), again["code"].as_str().unwrap(), &state).await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    assert_eq!(victim.snapshot().await, before);
    stack.stop().await.unwrap();
}

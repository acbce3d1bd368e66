//! GitHub installations are bound once, to whom they belong.

use nitejar_dev::test_stack::{TestStack, organization, person};
use serde_json::json;

use crate::world::World;

/// Someone else's installation can't be bound, whatever number a browser brings back.
#[tokio::test(flavor = "multi_thread")]
async fn an_installation_is_bound_once_and_proved() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let github = stack.github_client().unwrap();
    let victim = World::new(&stack).await;
    let before = victim.snapshot().await;
    let bound = before[9]["integrations"][0]["installation_id"].as_u64().unwrap();
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
    let account = before[9]["integrations"][0]["account"].as_str().unwrap();
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

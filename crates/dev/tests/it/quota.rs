//! 200 jobs at a limit of 100.

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use serde_json::{Value, json};

async fn in_state(owner: &Client, org: &str, state: &str) -> usize {
    owner.all(&format!("/v1/orgs/{org}/jobs?state={state}&page_size=500"), "jobs").await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_jobs_the_hundred_that_are_paid_for_run_and_after_the_upgrade_the_rest() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    let config = json!({ "command": "true", "concurrency": 8 });
    let agent = owner.post(&at("/agents"), &json!({ "handle": "worker", "config": config })).await.unwrap();
    let agent = text(&agent, "id");
    let posts = (0..200).map(|i| {
        let (owner, path) = (owner.clone(), at("/work-items"));
        let body = json!({ "agent_id": agent, "title": format!("job {i}") });
        tokio::spawn(async move { owner.post(&path, &body).await.unwrap() })
    });
    futures_util::future::join_all(posts.collect::<Vec<_>>())
        .await
        .into_iter()
        .for_each(|r| drop(r.unwrap()));
    let meter =
        |v: &Value| v["meters"].as_array().unwrap().iter().find(|m| m["meter"] == "jobs").unwrap().clone();
    let usage = owner.until(&at("/usage"), 120, "a hundred jobs", |v| meter(v)["used"] == 100).await.unwrap();
    assert_eq!((&meter(&usage)["reserved"], &meter(&usage)["limit"]), (&json!(0), &json!(100)));
    assert_eq!(
        (in_state(&owner, &org, "completed").await, in_state(&owner, &org, "blocked").await),
        (100, 100)
    );
    let blocked = owner.get(&at("/jobs?state=blocked&page_size=1")).await.unwrap();
    assert_eq!(blocked["jobs"][0]["reason"], "quota_exceeded");
    let count = async |action: &str| {
        owner.all(&at(&format!("/audit-events?action={action}")), "events").await.unwrap().len()
    };
    owner
        .until(&at("/audit-events?action=quota.blocked"), 20, "the notice", |v| {
            !v["events"].as_array().unwrap().is_empty()
        })
        .await
        .unwrap();
    assert_eq!((count("quota.warning").await, count("quota.blocked").await), (1, 1));

    operator.put(&format!("/v1/operator/orgs/{org}/subscription"), &json!({ "plan": "pro" })).await.unwrap();
    owner.until(&at("/usage"), 120, "the other hundred", |v| meter(v)["used"] == 200).await.unwrap();
    assert_eq!(in_state(&owner, &org, "completed").await, 200);
    let mut keys: Vec<String> = owner
        .all(&at("/usage/entries?meter=jobs&page_size=500"), "entries")
        .await
        .unwrap()
        .iter()
        .map(|e| text(e, "key"))
        .collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 200, "each job is counted once");
    stack.stop().await.unwrap();
}

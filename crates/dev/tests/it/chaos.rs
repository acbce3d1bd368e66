//! Services are killed with -9 and started again at random while work goes on. Nothing is lost and nothing is repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nitejar_common::rng;
use nitejar_dev::client::{Client, text};
use nitejar_dev::keys::SERVICES;
use nitejar_dev::settings::Tweaks;
use nitejar_dev::stack;
use nitejar_dev::test_processes::TestProcesses;
use nitejar_dev::test_stack::{connect_github, organization, person, test_tweaks};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection as _;

const JOBS: usize = 500;
const ORGS: usize = 20;
const KILLS: usize = 20;
const AGENTS: usize = 4;

/// Asks until the stack, parts of which are dead, gives an answer that is not its trouble.
async fn insist(client: &Client, path: &str, key: &str, body: &Value) -> (u16, Value) {
    let until = tokio::time::Instant::now() + Duration::from_secs(120);
    loop {
        let request = client.request(Method::POST, path).header("idempotency-key", key).json(body);
        let answer = Client::send(request).await;
        if let Ok(answer) = &answer
            && answer.status < 500
            && answer.body["code"] != "idempotency_key_in_use"
        {
            return (answer.status, answer.body.clone());
        }
        assert!(tokio::time::Instant::now() < until, "{path}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_killed_services_lose_and_repeat_nothing() {
    let product = TestProcesses::start(&Tweaks { log: "warn".into(), ..test_tweaks() }).await.unwrap();
    let TestProcesses { places, databases, mut split, github, operator, dir } = product;
    let fake = Client::new(&github.base_url(), "").unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    operator.put(&format!("/v1/operator/orgs/{org}/subscription"), &json!({ "plan": "team" })).await.unwrap();
    for i in 0..AGENTS {
        let config = json!({ "command": "echo ok > $NITEJAR_RESULT", "labels": [format!("agent-{i}")], "concurrency": 8 });
        owner
            .post(&format!("/v1/orgs/{org}/agents"), &json!({ "handle": format!("w{i}"), "config": config }))
            .await
            .unwrap();
    }
    let repository = "chaos/repo".to_owned();
    let installation = connect_github(&owner, &fake, &org, std::slice::from_ref(&repository)).await.unwrap();

    let issues = tokio::spawn({
        let (fake, repository) = (fake.clone(), repository.clone());
        async move {
            for i in 0..JOBS {
                let wish = json!({
                    "installation_id": installation, "repository": repository, "title": format!("issue {i}"),
                    "labels": [format!("agent-{}", i % AGENTS)],
                });
                // Sent once, as GitHub does: what hits a dead gateway is ours to ask for again.
                fake.post("/_fake/issues", &wish).await.unwrap();
            }
        }
    });
    let orgs = tokio::spawn({
        let owner = owner.clone();
        async move {
            for i in 0..ORGS {
                let body = json!({ "slug": format!("chaos-{i}"), "name": "Chaos" });
                let (status, answer) = insist(&owner, "/v1/orgs", &format!("org-{i}"), &body).await;
                // Also when it was made for an answer that was lost.
                assert_eq!((status, answer["state"].as_str()), (200, Some("active")), "{answer}");
                tokio::time::sleep(Duration::from_millis(700)).await;
            }
        }
    });
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(300 + rng::below(1200))).await;
        let name = SERVICES[usize::try_from(rng::below(5)).unwrap()];
        split.kill(name).await.unwrap();
        tokio::time::sleep(Duration::from_millis(rng::below(400))).await;
        split.spawn(name).unwrap();
    }
    issues.await.unwrap();
    orgs.await.unwrap();
    stack::wait_ready(&places).await.unwrap();

    // A gateway leaves a service alone for a while that did not answer.
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    for path in [at("/jobs"), at("/usage"), at("/audit-events"), at("/members")] {
        owner.until_ok(&path, 60).await.unwrap();
    }

    // Every job ends.
    let until = tokio::time::Instant::now() + Duration::from_secs(180);
    loop {
        let jobs = owner.all(&at("/jobs?page_size=500"), "jobs").await.unwrap();
        let mut states: BTreeMap<String, usize> = BTreeMap::new();
        jobs.iter().for_each(|j| *states.entry(text(j, "state")).or_default() += 1);
        let ledger = owner.all(&at("/usage/entries?meter=jobs&page_size=500"), "entries").await.unwrap();
        let ledger: BTreeSet<String> = ledger.iter().map(|e| text(e, "key")).collect();
        let state = fake.get("/_fake/state").await.unwrap();
        let comments: Vec<usize> = state["issues"][&repository]
            .as_object()
            .unwrap()
            .values()
            .map(|c| c.as_array().unwrap().len())
            .collect();
        assert!(comments.iter().all(|n| *n <= 1), "an issue has more than one comment");
        let answered = comments.iter().filter(|n| **n == 1).count();
        if states == BTreeMap::from([("completed".to_owned(), JOBS)])
            && ledger.len() == JOBS
            && answered == JOBS
        {
            assert!(jobs.iter().all(|j| ledger.contains(&text(j, "id"))));
            break;
        }
        assert!(
            tokio::time::Instant::now() < until,
            "jobs {states:?}, {} in the ledger, {answered} answered; logs in {}",
            ledger.len(),
            dir.keep().display()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // No unit is held for nothing, and none is counted twice.
    let done = |v: &Value| v["meters"][0]["used"] == JOBS && v["meters"][0]["reserved"] == 0;
    owner.until(&at("/usage"), 60, "nothing reserved", done).await.unwrap();

    // Every organization is in all four databases, or in none.
    let mine = owner.all("/v1/orgs?page_size=100", "orgs").await.unwrap();
    let mine: BTreeSet<String> = mine.iter().map(|o| text(o, "id")).collect();
    assert_eq!(mine.len(), ORGS + 1);
    for (service, database) in &databases {
        let mut raw = sqlx::PgConnection::connect(&database.handle.url).await.unwrap();
        let there: Vec<String> =
            sqlx::query_scalar("SELECT org_id FROM control.tenants WHERE state = 'active'")
                .fetch_all(&mut raw)
                .await
                .unwrap();
        let platform = nitejar_audit::platform().to_string();
        let there: BTreeSet<String> = there.into_iter().filter(|o| *o != platform).collect();
        assert_eq!(there, mine, "{service}");
    }
    // Every chain holds, and tells of every job's end once.
    for org in &mine {
        let verdict = owner.get(&format!("/v1/orgs/{org}/audit-events:verify")).await.unwrap();
        assert_eq!(verdict["valid"], true, "{verdict}");
    }
    let ends =
        async || owner.all(&at("/audit-events?action=job.finished&page_size=500"), "events").await.unwrap();
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    while ends().await.len() < JOBS && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let ends = ends().await;
    let distinct: BTreeSet<String> = ends.iter().map(|e| text(e, "target_id")).collect();
    assert_eq!((ends.len(), distinct.len()), (JOBS, JOBS));
    split.stop().await;
    nitejar_dev::up::stop_sprites(&places).await.unwrap();
}

//! Purges go on wherever a kill -9 left them: each organization ends once, whole, with one receipt, and no other one is
//! touched.

use std::collections::BTreeMap;
use std::time::Duration;

use nitejar_common::rng;
use nitejar_db::testing::TestDatabase;
use nitejar_dev::client::{Client, text};
use nitejar_dev::stack;
use nitejar_dev::test_processes::TestProcesses;
use nitejar_dev::test_stack::{organization, person, test_tweaks};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::digests::{Rows, differing};
use crate::world::finished;

const ORGS: usize = 12;
const KILLS: usize = 20;
const BEHIND: [&str; 4] = ["tenancy", "sprites", "billing", "audit"];

async fn state(operator: &Client, org: &str) -> String {
    match operator.get(&format!("/v1/operator/orgs/{org}")).await {
        Ok(life) => text(&life, "state"),
        Err(_) => String::new(),
    }
}

/// How many purges are under way.
async fn purging(tenancy: &mut PgConnection) -> i64 {
    let sql = "SELECT count(*) FROM control.orgs WHERE state = 'purging'";
    sqlx::query_scalar(sql).fetch_one(tenancy).await.unwrap()
}

/// Gives an organization rows in every service; answers them once nothing goes on by itself any more.
async fn furnished(databases: &BTreeMap<&'static str, TestDatabase>, owner: &Client, org: &str) -> Rows {
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    owner.put(&at("/secrets/TOKEN"), &json!({ "value": "v" })).await.unwrap();
    owner.post(&at("/keys"), &json!({ "name": "k", "role": "viewer" })).await.unwrap();
    let wish = json!({ "handle": "worker", "config": { "command": "echo kept" } });
    let agent = text(&owner.post(&at("/agents"), &wish).await.unwrap(), "id");
    let item = json!({ "agent_id": agent, "title": "t" });
    let item = owner.post(&at("/work-items"), &item).await.unwrap();
    finished(owner, org, item["job_ids"][0].as_str().unwrap()).await;
    let mut rows = Rows::of(databases, org).await;
    rows.quiet().await;
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn purges_that_are_killed_twenty_times_end_once_and_whole() {
    let product = TestProcesses::start(&test_tweaks()).await.unwrap();
    let TestProcesses { places, databases, mut split, github: _github, operator, dir: _dir } = product;
    let mut doomed = Vec::new();
    for _ in 0..ORGS {
        let (owner, _) = person(&operator, "owner").await.unwrap();
        let org = organization(&owner).await.unwrap();
        owner.put(&format!("/v1/orgs/{org}/secrets/TOKEN"), &json!({ "value": "v" })).await.unwrap();
        let wish = json!({ "handle": "worker", "config": { "command": "true" } });
        owner.post(&format!("/v1/orgs/{org}/agents"), &wish).await.unwrap();
        doomed.push((owner, org));
    }
    let (neighbour, _) = person(&operator, "neighbour").await.unwrap();
    let kept = organization(&neighbour).await.unwrap();
    let mut kept_rows = furnished(&databases, &neighbour, &kept).await;
    let before = kept_rows.digests().await;
    for (owner, org) in &doomed {
        let slug = text(&owner.get(&format!("/v1/orgs/{org}")).await.unwrap(), "slug");
        owner.delete(&format!("/v1/orgs/{org}?slug={slug}")).await.unwrap();
    }
    let mut tenancy = PgConnection::connect(&databases["tenancy"].handle.url).await.unwrap();
    let mut waiting: Vec<&str> = doomed.iter().map(|(_, org)| org.as_str()).collect();
    let mut met = 0;
    for i in 0..KILLS {
        // Their time comes one after another, so that each kill meets some purge.
        if i % 2 == 0
            && let Some(org) = waiting.pop()
        {
            sqlx::query("UPDATE control.orgs SET purge_after = now() WHERE id = $1")
                .bind(org)
                .execute(&mut tenancy)
                .await
                .unwrap();
        }
        // It is looked for once a second. One that was killed before may be under way already.
        for _ in 0..40 {
            if purging(&mut tenancy).await > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        tokio::time::sleep(Duration::from_millis(rng::below(80))).await;
        let name = BEHIND[usize::try_from(rng::below(4)).unwrap()];
        split.kill(name).await.unwrap();
        met += usize::from(purging(&mut tenancy).await > 0);
        tokio::time::sleep(Duration::from_millis(rng::below(300))).await;
        split.spawn(name).unwrap();
    }
    assert!(met >= KILLS / 2, "only {met} of {KILLS} kills met a purge");
    sqlx::query("UPDATE control.orgs SET purge_after = now() WHERE state = 'deleting'")
        .execute(&mut tenancy)
        .await
        .unwrap();
    stack::wait_ready(&places).await.unwrap();
    let until = tokio::time::Instant::now() + Duration::from_secs(120);
    for (_, org) in &doomed {
        while state(&operator, org).await != "purged" {
            assert!(tokio::time::Instant::now() < until, "{org} is {}", state(&operator, org).await);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    // One receipt each, that tells of every row; one event each; nothing left; nothing of the neighbour's gone.
    for (owner, org) in &doomed {
        let receipt = owner.until_ok(&format!("/v1/purge-receipts/{org}"), 30).await.unwrap();
        let said: Value = serde_json::from_str(&text(&receipt, "payload")).unwrap();
        let rows = |service: &str, table: &str| -> i64 {
            let store = said["deleted"].as_array().unwrap().iter().find(|s| s["service"] == service).unwrap();
            let tables = store["tables"].as_array().unwrap();
            tables.iter().find(|t| t["name"] == table).map_or(-1, |t| t["rows"].as_i64().unwrap())
        };
        assert_eq!(
            (rows("tenancy", "members"), rows("tenancy", "secrets"), rows("sprites", "agents")),
            (1, 1, 1),
            "{said}"
        );
        assert!(rows("audit", "events") >= 4 && rows("billing", "meters") >= 1, "{said}");
    }
    for service in BEHIND {
        let mut db = PgConnection::connect(&databases[service].handle.url).await.unwrap();
        let left: Vec<String> = sqlx::query_scalar(
            "SELECT t.number::text FROM control.tenants t WHERE t.state = 'purged' AND to_regnamespace('t_' || t.number) IS NOT NULL",
        )
        .fetch_all(&mut db)
        .await
        .unwrap();
        assert!(left.is_empty(), "{service}: {left:?}");
        let purged: i64 = sqlx::query_scalar("SELECT count(*) FROM control.tenants WHERE state = 'purged'")
            .fetch_one(&mut db)
            .await
            .unwrap();
        assert_eq!(purged, ORGS as i64, "{service}");
    }
    let all = |v: &Value| v["events"].as_array().is_some_and(|l| l.len() >= ORGS);
    let log = "/v1/operator/audit-events?action=org.purged&page_size=500";
    let events = operator.until(log, 60, "the events", all).await.unwrap();
    let mut told: Vec<String> =
        events["events"].as_array().unwrap().iter().map(|e| text(e, "target_id")).collect();
    told.sort();
    let mut expected: Vec<String> = doomed.iter().map(|(_, org)| org.clone()).collect();
    expected.sort();
    assert_eq!(told, expected, "one event each");
    neighbour.until_ok(&format!("/v1/orgs/{kept}/members"), 60).await.unwrap();
    kept_rows.quiet().await;
    let changed = differing(&before, &kept_rows.digests().await);
    assert!(changed.is_empty(), "the neighbour's rows differ: {changed:?}");
    assert_eq!(neighbour.get(&format!("/v1/orgs/{kept}")).await.unwrap()["state"], "active");
    split.stop().await;
    nitejar_dev::up::stop_sprites(&places).await.unwrap();
}

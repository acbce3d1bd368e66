//! Services with two databases each: an organization is moved while it works, and nobody notices more than a moment's pause.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nitejar_dev::client::{Client, text};
use nitejar_dev::settings::Tweaks;
use nitejar_dev::test_stack::{TestStack, organization, person, test_tweaks};
use reqwest::Method;
use serde_json::{Value, json};

use crate::archives::Tool;
use crate::world::{World, finished};

/// Runs one small job after another until told to stop; answers their ids. Only `unavailable` may come, to be repeated.
async fn worker(client: Client, org: String, agent: String, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut jobs = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let item = json!({ "agent_id": agent, "title": "work" });
        let path = format!("/v1/orgs/{org}/work-items");
        let answer = client.call(Method::POST, &path, Some(&item)).await.unwrap();
        match answer.status {
            200 => jobs.push(answer.body["job_ids"][0].as_str().unwrap().to_owned()),
            status => {
                let code = text(&answer.body, "code");
                assert!(matches!(code.as_str(), "unavailable" | "aborted"), "{status} {}", answer.body);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    jobs
}

/// Somebody else, who must notice nothing at all.
async fn neighbour(client: Client, org: String, stop: Arc<AtomicBool>) -> usize {
    let mut served = 0;
    while !stop.load(Ordering::Relaxed) {
        for rest in ["/agents", "/usage", "/audit-events"] {
            client.get(&format!("/v1/orgs/{org}{rest}")).await.unwrap();
            served += 1;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_that_works_is_moved_between_databases() {
    let mut keep = Vec::new();
    let mut second = BTreeMap::new();
    for (service, schema) in [
        ("sprites", nitejar_sprites::SCHEMA),
        ("billing", nitejar_billing::SCHEMA),
        ("audit", nitejar_audit::SCHEMA),
    ] {
        let database = nitejar_db::testing::database(schema).await.unwrap();
        second.insert(service, database.handle.url.clone());
        keep.push(database);
    }
    let stack = TestStack::start_with(Tweaks { second: second.clone(), ..test_tweaks() }).await.unwrap();
    let tool = Tool::with_second(&stack, &second);
    let operator = stack.operator().unwrap();
    let w = World::new(&stack).await;
    let (other, _) = person(&operator, "neighbour").await.unwrap();
    let elsewhere = organization(&other).await.unwrap();
    let before = w.snapshot().await;

    let stop = Arc::new(AtomicBool::new(false));
    let working = tokio::spawn(worker(w.owner.clone(), w.org.clone(), w.agent.clone(), Arc::clone(&stop)));
    let watching = tokio::spawn(neighbour(other.clone(), elsewhere.clone(), Arc::clone(&stop)));
    for to in ["second", "", "second"] {
        for service in ["audit", "billing", "sprites"] {
            let said = tool.must(&["move", &w.org, "--service", service, "--to", to]).await;
            assert!(said.contains("is moved") || said.contains("is there"), "{said}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    let jobs = working.await.unwrap();
    assert!(watching.await.unwrap() > 100 && jobs.len() > 5, "{} jobs", jobs.len());
    for job in &jobs {
        assert_eq!(text(&finished(&w.owner, &w.org, job).await, "state"), "completed");
    }

    // Everything is as it was, but for the work that was done.
    for (was, is) in before.iter().zip(w.snapshot().await) {
        if is.get("jobs").is_none() && is.get("work_items").is_none() && is.get("sprites").is_none() {
            assert_eq!(*was, is);
        }
    }
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", w.org);
    // Each job was counted once.
    let used = |v: &Value| {
        let meters = v["meters"].as_array().unwrap();
        meters.iter().find(|m| m["meter"] == "jobs").map_or(0, |m| m["used"].as_u64().unwrap_or(0))
    };
    let all = jobs.len() as u64 + 1;
    let usage = w.owner.until(&at("/usage"), 30, "the count", |v| used(v) >= all).await.unwrap();
    assert_eq!(used(&usage), all, "{usage}");
    let verdict = w.owner.get(&at("/audit-events:verify")).await.unwrap();
    assert_eq!(verdict["valid"], true, "{verdict}");

    // A copy of it, beside it: what only one of the two may have stays with it, although it is in the second database.
    tool.must(&["backup", &w.org, "copy"]).await;
    let copy = nitejar_common::id::OrgId::new(&nitejar_common::clock::SystemClock).to_string();
    let said =
        tool.must(&["restore", "copy", "--as-org", &copy, "--slug", &format!("copy-{}", &copy[20..])]).await;
    assert!(said.contains("control.sprites were left out"), "{said}");
    assert!(said.contains("control.github_installations were left out"), "{said}");
    for table in ["sprites", "github_installations", "job_pointers"] {
        let key = match table {
            "sprites" => "id",
            "github_installations" => "installation_id::text",
            _ => "job_id",
        };
        let sql = format!("SELECT {key} FROM control.{table}");
        let mut all: Vec<String> = Vec::new();
        for url in [&second["sprites"], &stack.databases["sprites"].handle.url] {
            let mut raw = <sqlx::PgConnection as sqlx::Connection>::connect(url).await.unwrap();
            all.extend(
                sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(sql.clone()))
                    .fetch_all(&mut raw)
                    .await
                    .unwrap(),
            );
        }
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "{table}: in both databases");
    }

    // And it ends where it is: nothing of it is left in either database.
    let slug = text(&w.owner.get(&at("")).await.unwrap(), "slug");
    w.owner.delete(&at(&format!("?slug={slug}"))).await.unwrap();
    let mut tenancy = stack.database("tenancy").await.unwrap();
    sqlx::query("UPDATE control.orgs SET purge_after = now() WHERE id = $1")
        .bind(&w.org)
        .execute(&mut tenancy)
        .await
        .unwrap();
    let life = format!("/v1/operator/orgs/{}", w.org);
    operator.until(&life, 60, "the purge", |v| v["state"] == "purged").await.unwrap();
    for (service, url) in &second {
        for url in [url, &stack.databases[service].handle.url] {
            let mut raw = <sqlx::PgConnection as sqlx::Connection>::connect(url).await.unwrap();
            let left: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM control.tenants WHERE org_id = $1 AND state NOT IN ('moved', 'purged')",
            )
            .bind(&w.org)
            .fetch_one(&mut raw)
            .await
            .unwrap();
            assert_eq!(left, 0, "{service}");
        }
    }
    stack.stop().await.unwrap();
}

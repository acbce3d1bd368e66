//! Everything of an organization as JSON Lines: whole, its own, without what opens anything, and gone in time.

use std::collections::BTreeMap;

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::TestStack;
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::World;

/// Service and table → its lines, put together from the parts; each part and table has the digest that it should have.
async fn whole(client: &Client, org: &str, export: &Value) -> BTreeMap<(String, String), String> {
    let mut tables: BTreeMap<(String, String), String> = BTreeMap::new();
    for part in export["parts"].as_array().unwrap() {
        let path = format!("/v1/orgs/{org}/exports/{}/parts/{}", text(export, "id"), part["number"]);
        let response = client.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
        let lines = response.text().await.unwrap();
        assert_eq!(hex::encode(nitejar_common::key::sha256(&lines)), text(part, "sha256"));
        assert_eq!(lines.lines().count() as u64, part["rows"].as_u64().unwrap());
        *tables.entry((text(part, "service"), text(part, "table"))).or_default() += &lines;
    }
    for table in export["tables"].as_array().unwrap() {
        let lines = tables.entry((text(table, "service"), text(table, "table"))).or_default();
        assert_eq!(hex::encode(nitejar_common::key::sha256(lines)), text(table, "sha256"), "{table}");
        assert_eq!(lines.lines().count() as u64, table["rows"].as_u64().unwrap(), "{table}");
    }
    tables
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_whole_and_holds_nothing_that_opens_anything() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (w, neighbour) = (World::new(&stack).await, World::new(&stack).await);
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", w.org);
    let key = w.owner.post(&at("/keys"), &json!({ "name": "opens", "role": "admin" })).await.unwrap();
    let secret = text(&key, "secret");
    let made = w.owner.post(&at("/exports"), &json!({})).await.unwrap();
    let path = at(&format!("/exports/{}", text(&made, "id")));
    let ready = w.owner.until(&path, 30, "the export", |v| v["state"] == "ready").await.unwrap();
    let tables = whole(&w.owner, &w.org, &ready).await;
    let rows = |service: &str, table: &str| -> Vec<Value> {
        let lines = &tables[&(service.to_owned(), table.to_owned())];
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    // As many as the API shows, and the same.
    let members = w.owner.all(&at("/members"), "members").await.unwrap();
    let told: Vec<Value> = rows("tenancy", "members").iter().map(|m| m["user_id"].clone()).collect();
    assert_eq!(told, members.iter().map(|m| m["user_id"].clone()).collect::<Vec<_>>());
    assert_eq!(rows("sprites", "jobs").len(), w.owner.all(&at("/jobs"), "jobs").await.unwrap().len());
    assert!(rows("billing", "ledger").iter().any(|l| l["key"] == w.job.as_str()));
    assert!(rows("audit", "events").len() > 10);
    assert_eq!(rows("tenancy", "secrets")[0]["name"], "TOKEN");
    for service in ["tenancy", "sprites", "billing", "audit"] {
        let mut db = stack.database(service).await.unwrap();
        let number: i64 = sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
            .bind(&w.org)
            .fetch_one(&mut db)
            .await
            .unwrap();
        let there: Vec<String> = sqlx::query_scalar(
            "SELECT relname::text FROM pg_class WHERE relnamespace = ('t_' || $1)::regnamespace AND relkind = 'r' \
             AND relname NOT IN ('outbox', 'exports', 'export_parts') ORDER BY 1",
        )
        .bind(number.to_string())
        .fetch_all(&mut db)
        .await
        .unwrap();
        let listed: Vec<String> =
            tables.keys().filter(|(s, _)| s == service).map(|(_, t)| t.clone()).collect();
        assert_eq!(listed, there, "{service}: every table, also those without rows");
    }
    // Nothing of the neighbour's, no value of a secret, no hash of a key or token, no sealed byte.
    let all: String = tables.values().map(String::as_str).collect();
    let hash = hex::encode(nitejar_common::key::sha256(&secret));
    for wrong in [
        &neighbour.org,
        &neighbour.agent,
        &neighbour.member_id,
        "victims-secret-value",
        &secret,
        &hash,
        "ciphertext",
        "wrapped",
        "token_sha256",
    ] {
        assert!(!all.contains(wrong), "it holds {wrong}");
    }
    // Owners only, and of their own.
    for (client, status) in [(&w.member, 403), (&neighbour.owner, 404), (&operator, 404)] {
        for rest in ["", "/parts/1"] {
            let answer = client.call(Method::GET, &format!("{path}{rest}"), None).await.unwrap();
            assert_eq!(answer.status, status, "{rest}");
        }
    }
    let foreign = format!("/v1/orgs/{}/exports/{}/parts/1", neighbour.org, text(&made, "id"));
    assert_eq!(neighbour.owner.call(Method::GET, &foreign, None).await.unwrap().status, 404);
    assert_eq!(w.owner.call(Method::GET, &format!("{path}/parts/100000"), None).await.unwrap().status, 404);
    // Five are kept.
    for _ in 0..5 {
        let made = w.owner.post(&at("/exports"), &json!({})).await.unwrap();
        let one = at(&format!("/exports/{}", text(&made, "id")));
        w.owner.until(&one, 30, "the export", |v| v["state"] == "ready").await.unwrap();
    }
    assert_eq!(w.owner.get(&at("/exports")).await.unwrap()["exports"].as_array().unwrap().len(), 5);
    assert_eq!(w.owner.call(Method::GET, &path, None).await.unwrap().status, 404);
    // Their time ends; and while one is made no other is begun.
    let mut db = stack.database("tenancy").await.unwrap();
    let number: i64 = sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
        .bind(&w.org)
        .fetch_one(&mut db)
        .await
        .unwrap();
    let sql = format!("UPDATE t_{number}.exports SET expires_at = now()");
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
    sqlx::query("UPDATE control.export_pointers SET due_at = now() WHERE org_id = $1")
        .bind(&w.org)
        .execute(&mut db)
        .await
        .unwrap();
    let none = |v: &Value| v["exports"].as_array().is_some_and(Vec::is_empty);
    w.owner.until(&at("/exports"), 20, "their end", none).await.unwrap();
    let sql = format!(
        "INSERT INTO t_{number}.exports (id, state, requested_by, created_at, expires_at) \
         VALUES ('exp_01h2xcejqtf2nbrexx3vqjhp41', 'running', 'x', now(), now() + interval '1 day')"
    );
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
    let second = w.owner.call(Method::POST, &at("/exports"), Some(&json!({}))).await.unwrap();
    assert_eq!((second.status, text(&second.body, "code")), (409, "conflict".into()));
    stack.stop().await.unwrap();
}

/// A worker that was killed is followed by another, which begins anew.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_left_half_way_is_made_anew() {
    let stack = TestStack::start().await.unwrap();
    let w = World::new(&stack).await;
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", w.org);
    let mut db = stack.database("tenancy").await.unwrap();
    let number: i64 = sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
        .bind(&w.org)
        .fetch_one(&mut db)
        .await
        .unwrap();
    // As a kill leaves it: running, with a part of it, and a pointer that is due.
    for sql in [
        format!("UPDATE t_{number}.exports SET state = 'running', finished_at = NULL, tables = '[]'"),
        format!("DELETE FROM t_{number}.export_parts WHERE number > 3"),
        format!("UPDATE t_{number}.export_parts SET content = 'half a li' WHERE number = 3"),
        "UPDATE control.export_pointers SET due_at = now(), attempts = 1".to_owned(),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
    }
    let path = at(&format!("/exports/{}", w.export));
    let ready = w.owner.until(&path, 30, "the export", |v| v["state"] == "ready").await.unwrap();
    assert!(whole(&w.owner, &w.org, &ready).await.len() > 15);
    // One that can't be made is given up, and said to have failed.
    for sql in [
        format!("UPDATE t_{number}.exports SET state = 'running'"),
        "UPDATE control.export_pointers SET due_at = now(), attempts = 5".to_owned(),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
    }
    w.owner.until(&path, 30, "its end", |v| v["state"] == "failed").await.unwrap();
    assert_eq!(w.owner.call(Method::GET, &format!("{path}/parts/1"), None).await.unwrap().status, 404);
    stack.stop().await.unwrap();
}

//! A key that ends at one gateway ends at every gateway, although each keeps what it was told.

use std::time::Duration;

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::join;

async fn status(client: &Client, path: &str) -> u16 {
    client.call(Method::GET, path, None).await.unwrap().status
}

/// Until it answers so.
async fn becomes(client: &Client, path: &str, wanted: u16) {
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let status = status(client, path).await;
        if status == wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < until, "{path} still answers {status}, not {wanted}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A key of the organization, for the second gateway: its id, and a client that has used it.
async fn fresh_key(owner: &Client, org: &str, second: &str, path: &str) -> (String, Client) {
    let made =
        owner.post(&format!("/v1/orgs/{org}/keys"), &json!({ "name": "k", "role": "viewer" })).await.unwrap();
    let client = owner.with_key(&text(&made, "secret")).at(second);
    assert_eq!(status(&client, path).await, 200);
    (text(&made["key"], "id"), client)
}

/// Without the triggers that tell of it.
async fn revoke_silently(database: &mut PgConnection, key: &str) {
    let mut tx = database.begin().await.unwrap();
    tx.execute("SET LOCAL session_replication_role = replica").await.unwrap();
    let revoke = "UPDATE control.credentials SET revoked_at = now() WHERE key_id = $1";
    sqlx::query(revoke).bind(key).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_at_one_gateway_ends_at_every_gateway() {
    let mut stack = TestStack::start().await.unwrap();
    let second = stack.another_gateway().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let path = format!("/v1/orgs/{org}/agents");

    // A revoked key.
    let (id, client) = fresh_key(&owner, &org, &second, &path).await;
    owner.delete(&format!("/v1/orgs/{org}/keys/{id}")).await.unwrap();
    becomes(&client, &path, 401).await;

    // A smaller role, then none.
    let (member, user) = join(&operator, &owner, &org, "admin").await;
    let member = member.at(&second);
    let keys = format!("/v1/orgs/{org}/keys");
    assert_eq!(status(&member, &keys).await, 200);
    let role = json!({ "role": "viewer" });
    owner.patch(&format!("/v1/orgs/{org}/members/{user}"), &role).await.unwrap();
    becomes(&member, &keys, 403).await;
    owner.delete(&format!("/v1/orgs/{org}/members/{user}")).await.unwrap();
    becomes(&member, &path, 404).await;

    // That an answer was kept at all, and what makes it go: a change that nobody tells of goes unnoticed …
    let mut database = stack.database("tenancy").await.unwrap();
    let mut unnoticed = None;
    // A busy machine may be silent for a moment, and then nothing kept is used: so it is tried more than once.
    for _ in 0..20 {
        let (id, client) = fresh_key(&owner, &org, &second, &path).await;
        revoke_silently(&mut database, &id).await;
        if status(&client, &path).await == 200 {
            unnoticed = Some((id, client));
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (id, client) = unnoticed.expect("no answer is ever kept");
    // … until it is told,
    let again = "UPDATE control.credentials SET revoked_at = now() WHERE key_id = $1";
    sqlx::query(again).bind(&id).execute(&mut database).await.unwrap();
    becomes(&client, &path, 401).await;

    // or until the one who hears was away and may have missed something.
    let (id, client) = fresh_key(&owner, &org, &second, &path).await;
    revoke_silently(&mut database, &id).await;
    let killed: i64 = sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid() AND query = 'SELECT 1'",
    )
    .fetch_one(&mut database)
    .await
    .unwrap();
    assert!(killed > 0, "nobody listened");
    becomes(&client, &path, 401).await;
    drop(database);
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_ends_with_its_credential() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");

    // A body that arrives slowly, after its key has ended: nothing is made.
    let made = owner.post(&at("/keys"), &json!({ "name": "leaked", "role": "admin" })).await.unwrap();
    let (id, leaked) = (text(&made["key"], "id"), text(&made, "secret"));
    let body = json!({ "name": "another", "role": "admin" }).to_string();
    let (begin, end) = body.split_at(body.len() - 1);
    let gateway = stack.places.main["gateway"];
    let mut socket = tokio::net::TcpStream::connect(gateway).await.unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {gateway}\r\nAuthorization: Bearer {leaked}\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{begin}",
        at("/keys"),
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    owner.delete(&at(&format!("/keys/{id}"))).await.unwrap();
    // Until the gateway knows.
    becomes(&owner.with_key(&leaked), &at("/agents"), 401).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    socket.write_all(end.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let keys = owner.all(&at("/keys"), "keys").await.unwrap();
    assert!(keys.iter().all(|key| key["name"] != "another"), "{keys:?}");

    // A log that a removed member follows.
    let agent =
        json!({ "handle": "worker", "config": { "command": "while true; do echo on; sleep 0.2; done" } });
    let agent = owner.post(&at("/agents"), &agent).await.unwrap();
    let item = json!({ "agent_id": text(&agent, "id"), "title": "t" });
    let item = owner.post(&at("/work-items"), &item).await.unwrap();
    let job = at(&format!("/jobs/{}", item["job_ids"][0].as_str().unwrap()));
    owner.until(&job, 30, "its start", |v| v["state"] == "running").await.unwrap();
    let (member, user) = join(&operator, &owner, &org, "viewer").await;
    let log = member.request(Method::GET, &format!("{job}/logs?follow=true")).send().await.unwrap();
    assert_eq!(log.status(), 200);
    owner.delete(&at(&format!("/members/{user}"))).await.unwrap();
    let log = tokio::time::timeout(Duration::from_secs(30), log.text()).await.expect("it goes on").unwrap();
    assert!(log.contains("event: error") && log.contains("\"code\":\"not_found\""), "{log}");
    owner.post(&format!("{job}:cancel"), &json!({})).await.unwrap();
    stack.stop().await.unwrap();
}

//! A key that ends at one gateway ends at every gateway, although each keeps what it was told.

use std::time::Duration;

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

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
    let mut database = PgConnection::connect(&stack.databases["tenancy"].handle.url).await.unwrap();
    let (id, client) = fresh_key(&owner, &org, &second, &path).await;
    // The gateway's stream may just have begun; from then on it keeps answers.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(status(&client, &path).await, 200);
    let revoke = format!("UPDATE control.credentials SET revoked_at = now() WHERE key_id = '{id}'");
    let silently = format!("BEGIN; SET LOCAL session_replication_role = replica; {revoke}; COMMIT");
    database.execute(sqlx::raw_sql(AssertSqlSafe(silently))).await.unwrap();
    assert_eq!(status(&client, &path).await, 200);
    // … until it is told,
    database.execute(AssertSqlSafe(revoke.clone())).await.unwrap();
    becomes(&client, &path, 401).await;

    // or until the one who hears was away and may have missed something.
    let (id, client) = fresh_key(&owner, &org, &second, &path).await;
    let silently = format!(
        "BEGIN; SET LOCAL session_replication_role = replica; UPDATE control.credentials SET revoked_at = now() \
         WHERE key_id = '{id}'; COMMIT"
    );
    database.execute(sqlx::raw_sql(AssertSqlSafe(silently))).await.unwrap();
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

//! A key that ends at one gateway ends at every gateway, although each keeps what it was told.

use std::time::Duration;

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};

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
    let mut database = PgConnection::connect(&stack.databases["tenancy"].handle.url).await.unwrap();
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

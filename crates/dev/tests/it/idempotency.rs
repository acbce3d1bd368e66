//! `Idempotency-Key`: a request that comes again is answered as it was, and nothing happens twice.

use std::collections::BTreeSet;

use nitejar_dev::client::{Answer, Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use nitejar_proto::policy::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::endpoints::{ENDPOINTS, Ids};
use crate::examples::prepare;
use crate::world::World;

async fn post(client: &Client, path: &str, key: &str, body: &Value) -> Answer {
    let request = client.request(Method::POST, path).header("idempotency-key", key).json(body);
    Client::send(request).await.unwrap()
}

fn replayed(answer: &Answer) -> bool {
    answer.headers.contains_key("idempotency-replayed")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_post_happens_once_and_is_answered_as_before() {
    let stack = TestStack::start().await.unwrap();
    let world = World::new(&stack).await;
    let operator = stack.operator().unwrap();
    let mut tried = 0;
    for endpoint in ENDPOINTS.iter().filter(|e| e.method() == Method::POST) {
        let scope = endpoint.policy().scope;
        // Who left is no member any more, and is told so before anything else.
        // Nor is a session that ended; signing out needs one, see `sessions`.
        // `sessions` also tries what needs one.
        let leaves = matches!(
            endpoint.rpc,
            "Members.LeaveOrg"
                | "Sessions.SignOut"
                | "Sessions.SignOutEverywhere"
                | "Users.CreateMyKey"
                | "Ownership.AcceptOwnership"
                // `domains` has the name server that these need.
                | "Domains.VerifyDomain"
                | "Domains.JoinOrg"
        );
        if matches!(scope, Scope::Public | Scope::Runner) || leaves {
            continue;
        }
        let client = if scope == Scope::Operator { &operator } else { &world.owner };
        let mut ids = Ids::of(&world);
        let body = match prepare(&stack, &world, &mut ids, endpoint.rpc).await {
            Some(body) => body,
            None if endpoint.rpc == "Orgs.CreateOrg" => json!({ "slug": "asked-twice", "name": "Once" }),
            None if endpoint.rpc == "OrgLives.CreateOrgForUser" => {
                json!({ "slug": "asked-for-twice", "name": "Once" })
            }
            None if endpoint.rpc == "Orgs.RenameOrg" => json!({ "slug": "renamed-twice" }),
            None => endpoint.body(&ids).unwrap_or_else(|| json!({})),
        };
        let path = endpoint.path(&ids);
        let first = post(client, &path, "same-key", &body).await;
        assert_eq!((first.status, replayed(&first)), (200, false), "{}: {}", endpoint.rpc, first.body);
        let before = things(&world).await;
        let again = post(client, &path, "same-key", &body).await;
        assert_eq!((again.status, replayed(&again)), (200, true), "{}: {}", endpoint.rpc, again.body);
        assert_eq!(again.body, first.body, "{}", endpoint.rpc);
        assert_eq!(again.headers.get("etag"), first.headers.get("etag"));
        assert_eq!(things(&world).await, before, "{} happened twice", endpoint.rpc);
        if endpoint.rpc == "OrgLives.ResumeOrg" {
            crate::lives::works(&world.owner, &world.org).await;
        }
        tried += 1;
    }
    assert!(tried >= 12, "{tried}");
    stack.stop().await.unwrap();
}

/// The ids of everything in the organization, and of what was done there: jobs go on meanwhile, so no states.
async fn things(world: &World) -> Vec<String> {
    let mut ids = Vec::new();
    let mut left = world.snapshot().await;
    while let Some(value) = left.pop() {
        match value {
            Value::Array(list) => left.extend(list),
            Value::Object(fields) => {
                ids.extend(
                    ["id", "user_id"].iter().filter_map(|f| fields.get(*f)?.as_str()).map(str::to_owned),
                );
                left.extend(fields.into_iter().map(|(_, v)| v));
            }
            _ => {}
        }
    }
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_its_callers_own_and_what_is_kept_can_be_read_by_nobody_else() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (ada, _) = person(&operator, "ada").await.unwrap();
    let (eve, _) = person(&operator, "eve").await.unwrap();
    let (org, evil) = (organization(&ada).await.unwrap(), organization(&eve).await.unwrap());
    let keys = |org: &str| format!("/v1/orgs/{org}/keys");
    let body = json!({ "name": "k", "role": "viewer" });
    let first = post(&ada, &keys(&org), "shared", &body).await;
    let secret = text(&first.body, "secret");

    // The same key at another tenant makes another thing.
    let theirs = post(&eve, &keys(&evil), "shared", &body).await;
    assert_eq!((theirs.status, replayed(&theirs)), (200, false));
    assert_ne!(text(&theirs.body, "secret"), secret);
    // Nor does it open the first tenant's door.
    assert_eq!(post(&eve, &keys(&org), "shared", &body).await.status, 404);

    // Blanks and the order of fields are no other body; a path, a query or a value is.
    let spaced = ada.request(Method::POST, &keys(&org)).header("idempotency-key", "shared");
    let spaced =
        spaced.header("content-type", "application/json").body("{ \"role\": \"viewer\",\n\"name\":\"k\" }");
    assert_eq!(text(&Client::send(spaced).await.unwrap().body, "secret"), secret);
    let other = post(&ada, &keys(&org), "shared", &json!({ "name": "k", "role": "admin" })).await;
    assert_eq!((other.status, other.body["code"].as_str()), (422, Some("idempotency_key_reused")));

    // A request that failed leaves its key free.
    let bad = post(&ada, &keys(&org), "failed", &json!({ "name": "k", "role": "owner" })).await;
    assert_eq!(bad.status, 400);
    assert_eq!(post(&ada, &keys(&org), "failed", &body).await.status, 200);

    // Keys that are none.
    for key in ["", &"x".repeat(256), "\u{e9}"] {
        let answer = post(&ada, &keys(&org), key, &body).await;
        assert_eq!(answer.status, 400, "{key:?}");
        assert_eq!(answer.body["errors"][0]["pointer"], "/Idempotency-Key");
    }

    // What is kept shows nothing, and ends after a day.
    let mut raw = stack.database("tenancy").await.unwrap();
    let kept: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT answer FROM control.answers").fetch_all(&mut raw).await.unwrap();
    assert!(kept.len() >= 3);
    for answer in &kept {
        assert!(!answer.windows(4).any(|w| w == b"njk_"), "a key stands in the clear");
    }
    sqlx::query("UPDATE control.answers SET created_at = created_at - interval '24 hours'")
        .execute(&mut raw)
        .await
        .unwrap();
    let later = post(&ada, &keys(&org), "shared", &body).await;
    assert_eq!((later.status, replayed(&later)), (200, false));
    assert_ne!(text(&later.body, "secret"), secret);
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_one_happens_also_at_two_gateways_and_after_a_lost_lock() {
    let mut stack = TestStack::start().await.unwrap();
    let second = stack.another_gateway().await.unwrap();
    let (ada, _) = person(&stack.operator().unwrap(), "ada").await.unwrap();
    let org = organization(&ada).await.unwrap();
    let keys = format!("/v1/orgs/{org}/keys");
    for round in 0..10 {
        let body = json!({ "name": format!("round {round}"), "role": "viewer" });
        let key = format!("round-{round}");
        if round == 5 {
            // Whoever holds locks loses them: the answers' own key must hold.
            let mut raw = stack.database("tenancy").await.unwrap();
            sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")
                .execute(&mut raw)
                .await
                .unwrap();
        }
        let calls = (0..20).map(|i| {
            let client = if i % 2 == 0 { ada.clone() } else { ada.at(&second) };
            let (path, key, body) = (keys.clone(), key.clone(), body.clone());
            tokio::spawn(async move { post(&client, &path, &key, &body).await })
        });
        let mut secrets = BTreeSet::new();
        for call in calls.collect::<Vec<_>>() {
            let answer = call.await.unwrap();
            match answer.status {
                200 => drop(secrets.insert(text(&answer.body, "secret"))),
                409 => assert_eq!(answer.body["code"], "idempotency_key_in_use"),
                status => assert_eq!((round, status), (5, 503), "{}", answer.body),
            }
        }
        assert!(secrets.len() <= 1, "{secrets:?}");
        // Whatever became of them, repeating it ends well.
        let last = loop {
            let answer = post(&ada, &keys, &key, &body).await;
            if answer.status == 200 {
                break answer;
            }
            assert!(matches!(answer.status, 409 | 503), "{}", answer.body);
        };
        secrets.insert(text(&last.body, "secret"));
        assert_eq!(secrets.len(), 1);
    }
    let made = ada.get(&keys).await.unwrap()["keys"].as_array().unwrap().len();
    assert_eq!(made, 10);
    stack.stop().await.unwrap();
}

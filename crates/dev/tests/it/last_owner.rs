//! Whatever people do at the same time, on whatever path: an organization keeps an owner, and what is known across
//! organizations is what each knows itself.

use std::sync::Arc;

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use reqwest::Method;
use serde_json::json;

use crate::world::join;

const PEOPLE: usize = 5;
const ROUNDS: usize = 6;
const STEPS: usize = 12;

struct Someone {
    client: Client,
    id: String,
    email: String,
}

/// One random deed of somebody. Refusals are as good as deeds; what must not be is an error of ours.
async fn act(org: &str, people: &[Someone], pick: &mut impl FnMut(usize) -> usize) {
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    let (me, other) = (&people[pick(PEOPLE)], &people[pick(PEOPLE)]);
    let role = ["owner", "admin", "viewer"][pick(3)];
    let member = at(&format!("/members/{}", other.id));
    let own = at(&format!("/members/{}", me.id));
    let (method, path, body) = match pick(9) {
        0 => (Method::POST, at(":leave"), Some(json!({}))),
        1 => (Method::DELETE, member, None),
        2 => (Method::DELETE, own, None),
        3 => (Method::PATCH, member, Some(json!({ "role": role }))),
        4 => (Method::PATCH, own, Some(json!({ "role": role }))),
        5 => (Method::POST, at("/ownership-offer"), Some(json!({ "user_id": other.id }))),
        6 => (Method::POST, at("/ownership-offer:accept"), Some(json!({}))),
        7 => (Method::DELETE, format!("/v1/me?email={}", me.email), None),
        _ => (Method::POST, at("/invitations"), Some(json!({ "email": other.email, "role": "owner" }))),
    };
    let answer = me.client.call(method.clone(), &path, body.as_ref()).await.unwrap();
    assert!(answer.status < 500, "{method} {path}: {} {}", answer.status, answer.body);
    // Who is invited comes, so that there is always somebody to act.
    if answer.body["token"].is_string() {
        let token = json!({ "token": answer.body["token"] });
        let joined = other.client.call(Method::POST, "/v1/invitations:accept", Some(&token)).await.unwrap();
        assert!(joined.status < 500, "{}", joined.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_keeps_an_owner_whatever_happens_at_the_same_time() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let seed = match std::env::var("NITEJAR_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => nitejar_common::rng::below(u64::MAX),
    };
    let mut db = stack.database("tenancy").await.unwrap();
    let mut refused = 0;
    for round in 0..ROUNDS {
        let say = format!("NITEJAR_SEED={seed} round {round}");
        let (owner, _) = person(&operator, "p").await.unwrap();
        let org = organization(&owner).await.unwrap();
        let plan = json!({ "plan": "team" });
        operator.put(&format!("/v1/operator/orgs/{org}/subscription"), &plan).await.unwrap();
        let mut people = Vec::new();
        for i in 0..PEOPLE {
            let (client, id) = match i {
                0 => (owner.clone(), text(&owner.get("/v1/me").await.unwrap(), "id")),
                1 => join(&operator, &owner, &org, "owner").await,
                _ => join(&operator, &owner, &org, "admin").await,
            };
            let email = text(&client.get("/v1/me").await.unwrap(), "email");
            people.push(Someone { client, id, email });
        }
        let people = Arc::new(people);
        let tasks = (0..4u64).map(|task| {
            let (people, org) = (Arc::clone(&people), org.clone());
            tokio::spawn(async move {
                let mut state = seed ^ (round as u64) << 32 ^ task << 48 | 1;
                let mut pick = |below: usize| {
                    // xorshift: the same deeds for the same seed.
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    usize::try_from(state % below as u64).unwrap()
                };
                for _ in 0..STEPS {
                    act(&org, &people, &mut pick).await;
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap_or_else(|e| panic!("{say}: {e}"));
        }
        let number: i64 = sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
            .bind(&org)
            .fetch_one(&mut db)
            .await
            .unwrap();
        let owners: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT count(*) FROM t_{number}.members WHERE role = 'owner'"
        )))
        .fetch_one(&mut db)
        .await
        .unwrap();
        assert!(owners >= 1, "{say}: nobody owns it any more");
        let differ: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT coalesce(m.user_id, c.user_id) FROM t_{number}.members m \
             FULL JOIN (SELECT user_id, role FROM control.memberships WHERE org_id = $1) c USING (user_id) \
             WHERE m.role IS DISTINCT FROM c.role"
        )))
        .bind(&org)
        .fetch_all(&mut db)
        .await
        .unwrap();
        assert!(differ.is_empty(), "{say}: {differ:?} differ");
        // The rule was put to the test: whoever is left and tries it alone is refused.
        let left: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT user_id FROM t_{number}.members WHERE role = 'owner'"
        )))
        .fetch_all(&mut db)
        .await
        .unwrap();
        if let [last] = left.as_slice()
            && let Some(last) = people.iter().find(|p| p.id == *last)
        {
            let path = format!("/v1/orgs/{org}");
            let own = format!("{path}/members/{}", last.id);
            for (method, path, body) in [
                (Method::POST, format!("{path}:leave"), Some(json!({}))),
                (Method::DELETE, own.clone(), None),
                (Method::PATCH, own, Some(json!({ "role": "admin" }))),
                (Method::DELETE, format!("/v1/me?email={}", last.email), None),
            ] {
                let answer = last.client.call(method, &path, body.as_ref()).await.unwrap();
                assert_eq!((answer.status, text(&answer.body, "code")), (409, "last_owner".into()), "{say}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "NITEJAR_SEED={seed}: no round left a single owner");
    stack.stop().await.unwrap();
}

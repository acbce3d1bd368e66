//! Rate limits, page tokens, compression and what a gateway does when services are in trouble.

use std::time::Duration;

use nitejar_dev::client::{Answer, Client, text};
use nitejar_dev::settings::Tweaks;
use nitejar_dev::test_processes::TestProcesses;
use nitejar_dev::test_stack::{TestStack, organization, person, test_tweaks};
use reqwest::Method;
use serde_json::json;

use crate::watching::Watcher;
use crate::world::World;

async fn get(client: &Client, path: &str) -> Answer {
    client.call(Method::GET, path, None).await.unwrap()
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(name).map_or("", |v| v.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_told_kept_and_shared_between_gateways() {
    let tweaks = Tweaks { rate_limits: [300, 1_000_000, 20], ..test_tweaks() };
    let mut stack = TestStack::start_with(tweaks.clone()).await.unwrap();
    let second = stack.another_gateway_with(&tweaks).await.unwrap();
    let operator = stack.operator().unwrap();
    let (ada, _) = person(&operator, "ada").await.unwrap();
    let (ben, _) = person(&operator, "ben").await.unwrap();
    let org = organization(&ada).await.unwrap();
    let path = format!("/v1/orgs/{org}");

    let first = get(&ada, &path).await;
    assert_eq!(header(&first, "ratelimit-policy"), "\"default\";q=300;w=60");
    assert!(header(&first, "ratelimit").starts_with("\"default\";r=29"), "{}", header(&first, "ratelimit"));

    // In turns at both gateways, in more than one exchange of counts.
    let elsewhere = ada.at(&second);
    let (mut served, mut refused) = (1, 0);
    while refused < 40 {
        for client in [&ada, &elsewhere] {
            let answer = get(client, &path).await;
            match answer.status {
                200 => served += 1,
                429 => {
                    refused += 1;
                    assert_eq!(answer.body["code"], "rate_limited");
                    let wait: u64 = header(&answer, "retry-after").parse().unwrap();
                    // What both admitted beyond the limit is waited for in the window after this one.
                    assert!((1..=80).contains(&wait), "{wait}");
                    assert!(header(&answer, "ratelimit").starts_with("\"default\";r=0;t="));
                }
                status => panic!("{status} {}", answer.body),
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The organization's creation counted too. What one gateway admits within half a second may come on top; a window
    // that ends meanwhile gives something back.
    assert!((250..=420).contains(&served), "{served} served of 300");
    // Nobody else's business.
    assert_eq!(get(&ben, "/v1/me").await.status, 200);

    // An address that shows bad keys is held up, and with it no key that is good.
    let bad = ada.with_key(nitejar_common::key::generate(nitejar_common::key::KeyKind::Api).expose());
    let mut codes = Vec::new();
    for _ in 0..40 {
        codes.push(text(&get(&bad, "/v1/me").await.body, "code"));
    }
    let invalid = codes.iter().filter(|code| *code == "invalid_credential").count();
    assert!((10..=21).contains(&invalid), "{invalid}");
    assert_eq!(codes.last().unwrap(), "rate_limited");
    assert_eq!(get(&ben, "/v1/me").await.status, 200);
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn page_tokens_are_good_for_their_own_list_and_answers_are_compressed() {
    let stack = TestStack::start().await.unwrap();
    let world = World::new(&stack).await;
    let keys = format!("/v1/orgs/{}/keys", world.org);
    for i in 0..12 {
        let key = json!({ "name": format!("key with a long name to be compressed {i}"), "role": "viewer" });
        world.owner.post(&keys, &key).await.unwrap();
    }
    assert_eq!(world.owner.all(&format!("{keys}?page_size=3"), "keys").await.unwrap().len(), 13);
    let token = text(&get(&world.owner, &format!("{keys}?page_size=3")).await.body, "next_page_token");
    assert_eq!(get(&world.owner, &format!("{keys}?page_token={token}")).await.status, 200);
    let events = format!("/v1/orgs/{}/audit-events", world.org);
    let unsigned = &token[24..];
    for (who, path) in [
        (&world.owner, format!("{events}?page_token={token}")),
        (&world.owner, format!("{keys}?page_token={unsigned}")),
        (&world.owner, format!("{keys}?page_token={token}A")),
        (&world.owner, format!("{keys}?page_token=%00")),
    ] {
        let answer = get(who, &path).await;
        assert_eq!(
            (answer.status, &answer.body["errors"][0]["pointer"]),
            (400, &json!("/page_token")),
            "{path}"
        );
    }

    for (accept, coding) in [("gzip", "gzip"), ("br", "br"), ("gzip;q=0", ""), ("identity", "")] {
        let list =
            world.owner.request(Method::GET, &keys).header("accept-encoding", accept).send().await.unwrap();
        assert_eq!(list.headers().get("content-encoding").map_or("", |v| v.to_str().unwrap()), coding);
        if coding == "gzip" {
            let bytes = list.bytes().await.unwrap();
            let plain = world.owner.get(&keys).await.unwrap().to_string();
            assert!(bytes.starts_with(&[0x1f, 0x8b]) && bytes.len() * 2 < plain.len());
        }
    }
    let small =
        world.owner.request(Method::GET, "/v1/me").header("accept-encoding", "gzip").send().await.unwrap();
    assert!(!small.headers().contains_key("content-encoding"));
    stack.stop().await.unwrap();
}

/// Reads go on while a service is started again: they are repeated for the caller, who sees nothing or a documented 503.
/// Writes are repeated by their caller, with a key.
#[tokio::test(flavor = "multi_thread")]
async fn callers_of_other_services_see_nothing_of_a_restart() {
    let mut product = TestProcesses::start(&test_tweaks()).await.unwrap();
    let (ada, _) = person(&product.operator, "ada").await.unwrap();
    let org = organization(&ada).await.unwrap();
    let (members, agents) = (format!("/v1/orgs/{org}/members"), format!("/v1/orgs/{org}/agents"));
    let (unrelated, related) = (Watcher::start(&ada, &members), Watcher::start(&ada, &agents));
    for _ in 0..3 {
        product.split.kill("sprites").await.unwrap();
        tokio::time::sleep(Duration::from_millis(600)).await;
        product.split.spawn("sprites").unwrap();
        ada.until_ok(&agents, 30).await.unwrap();
    }
    let (unrelated, related) = (unrelated.seen().await, related.seen().await);
    assert_eq!(unrelated.keys().cloned().collect::<Vec<_>>(), [(200, String::new())], "{unrelated:?}");
    let documented =
        |(status, code): &(u16, String)| matches!((*status, code.as_str()), (200, "") | (503, "unavailable"));
    assert!(related.keys().all(documented), "{related:?}");

    // Without tenancy nobody can be known: everybody is told so, in documented words, and it passes.
    product.split.kill("tenancy").await.unwrap();
    let everybody = Watcher::start(&ada, &agents);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let seen = everybody.seen().await;
    assert!(seen.keys().all(documented), "{seen:?}");
    assert!(seen.keys().any(|(status, _)| *status == 503), "{seen:?}");
    product.split.spawn("tenancy").unwrap();
    ada.until_ok(&agents, 30).await.unwrap();
    product.stop().await;
}

/// A connection between services ends at some age, with requests on their way: that is nobody's business, also not of those
/// whose credential is asked for each time.
#[tokio::test(flavor = "multi_thread")]
async fn connections_of_some_age_are_replaced_and_nobody_notices() {
    let stack = TestStack::start_with(Tweaks { connection_seconds: 1, ..test_tweaks() }).await.unwrap();
    let operator = stack.operator().unwrap();
    let (ada, ada_id) = person(&operator, "ada").await.unwrap();
    let org = organization(&ada).await.unwrap();
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    let all =
        [(&ada, at("/members")), (&ada, at("/agents")), (&operator, format!("/v1/operator/users/{ada_id}"))];
    let watchers: Vec<Watcher> =
        all.iter().cycle().take(24).map(|(client, path)| Watcher::start(client, path)).collect();
    tokio::time::sleep(Duration::from_secs(10)).await;
    for (watcher, (_, path)) in watchers.into_iter().zip(all.iter().cycle()) {
        let seen = watcher.seen().await;
        assert_eq!(seen.keys().cloned().collect::<Vec<_>>(), [(200, String::new())], "{path}: {seen:?}");
    }
    stack.stop().await.unwrap();
}

/// A key in the wrong place: what it follows ends when its networks are narrowed, and asking in vain counts for the address,
/// which holds up no key that is good, nor this one once it may be used there.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_from_elsewhere_is_counted_and_follows_nothing_any_more() {
    let stack =
        TestStack::start_with(Tweaks { rate_limits: [1_000_000, 1_000_000, 20], ..test_tweaks() }).await;
    let stack = stack.unwrap();
    let operator = stack.operator().unwrap();
    let (ada, _) = person(&operator, "ada").await.unwrap();
    let org = organization(&ada).await.unwrap();
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    let (here, elsewhere) = (json!(["127.0.0.0/8"]), json!(["203.0.113.0/24"]));
    let wish = json!({ "name": "k", "role": "viewer", "allowed_networks": here });
    let made = ada.post(&at("/keys"), &wish).await.unwrap();
    let (key, path) =
        (ada.with_key(&text(&made, "secret")), at(&format!("/keys/{}", text(&made["key"], "id"))));

    let agent =
        json!({ "handle": "worker", "config": { "command": "while true; do echo on; sleep 0.2; done" } });
    let agent = ada.post(&at("/agents"), &agent).await.unwrap();
    let item = json!({ "agent_id": text(&agent, "id"), "title": "t" });
    let item = ada.post(&at("/work-items"), &item).await.unwrap();
    let job = at(&format!("/jobs/{}", item["job_ids"][0].as_str().unwrap()));
    ada.until(&job, 30, "its start", |v| v["state"] == "running").await.unwrap();
    let log = key.request(Method::GET, &format!("{job}/logs?follow=true")).send().await.unwrap();
    assert_eq!(log.status(), 200);
    ada.patch(&path, &json!({ "allowed_networks": elsewhere })).await.unwrap();
    let log = tokio::time::timeout(Duration::from_secs(30), log.text()).await.expect("it goes on").unwrap();
    assert!(log.contains("event: error") && log.contains("\"code\":\"address_not_allowed\""), "{log}");
    ada.post(&format!("{job}:cancel"), &json!({})).await.unwrap();

    let mut codes = Vec::new();
    for _ in 0..40 {
        codes.push(text(&get(&key, &at("")).await.body, "code"));
    }
    let forbidden = codes.iter().filter(|code| *code == "address_not_allowed").count();
    assert!((10..=21).contains(&forbidden), "{codes:?}");
    assert_eq!(codes.last().unwrap(), "rate_limited");
    assert_eq!(get(&ada, &at("")).await.status, 200);
    ada.patch(&path, &json!({ "allowed_networks": here })).await.unwrap();
    let until = tokio::time::Instant::now() + Duration::from_secs(30);
    while get(&key, &at("")).await.status != 200 {
        assert!(tokio::time::Instant::now() < until, "the key is not good again");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    stack.stop().await.unwrap();
}

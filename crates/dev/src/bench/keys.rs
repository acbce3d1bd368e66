//! API keys at the gateway: how fast they are verified, how soon a revoked one ends everywhere, and what it costs in memory
//! when there are many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nitejar_common::key::{self, KeyKind};
use nitejar_runner::procs;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::load::{CONNECTIONS, Target, in_turns};
use super::setup::{AGENT, Setup};
use crate::client::{Client, text};

/// Distinct keys.
const KEYS: usize = 100_000;
/// Of them, so many are verified for the first time while that is measured.
const FRESH: usize = 20_000;
/// Keys that are revoked, one after another.
const REVOKED: usize = 200;

pub(super) async fn run(requests: usize) -> Result<Value> {
    let setup = Setup::start().await?;
    let Setup { owner, far, org, .. } = &setup;
    let secrets = many(&setup.databases["tenancy"].handle.url, org).await?;
    let path = format!("/v1/orgs/{org}/agents/{AGENT}");
    let pid = setup.second.pid("gateway")?;

    let fresh = each_once(far, &path, &secrets[..FRESH]).await?;
    let bare = far.at(&setup.bare.url());
    let targets =
        [Target::http("cached", far, &path, pid), Target::http("bare", &bare, &path, setup.bare.pid()?)];
    let measured = in_turns(&targets).await?;
    let (cached, unchecked) = (&measured["cached"], &measured["bare"]);
    let mut waits = revocations(owner, far, org, &path).await?;
    waits.sort_unstable();
    let at = |share: usize| waits[(waits.len() * share / 100).min(waits.len() - 1)].as_secs_f64();

    // The memory of a process that has seen many keys, after a fifth of the requests and at the end.
    let memory = || procs::one(pid).map(|p| p.memory >> 20).context("the gateway is gone");
    spread(far, &path, &secrets, requests / 5).await?;
    let early = memory()?;
    spread(far, &path, &secrets, requests * 4 / 5).await?;
    let late = memory()?;
    let ratio = |a: f64, b: f64| json!((a / b * 100.0).round() / 100.0);
    let result = json!({
        "connections": CONNECTIONS,
        "bare_transcoder_req_per_s": unchecked.per_second.round(),
        "verified_from_memory_per_s": cached.per_second.round(),
        "verified_by_tenancy_per_s": fresh.round(),
        "from_memory_to_bare": ratio(cached.per_second, unchecked.per_second),
        "by_tenancy_to_from_memory": ratio(fresh, cached.per_second),
        "cached_p99_us": cached.p99_us,
        "revoked_to_refused_at_a_second_gateway_p50_s": at(50),
        "revoked_to_refused_at_a_second_gateway_p99_s": at(99),
        "goal_p99_s": 1,
        "distinct_keys": KEYS,
        "requests_for_memory": requests,
        "memory_after_a_fifth_mib": early,
        "memory_at_the_end_mib": late,
    });
    setup.stop().await;
    Ok(result)
}

/// Keys of the organization, straight into the table that finds them: as many as an API would need minutes for.
async fn many(url: &str, org: &str) -> Result<Vec<String>> {
    let secrets: Vec<String> = (0..KEYS).map(|_| key::generate(KeyKind::Api).expose().to_owned()).collect();
    let mut raw = PgConnection::connect(url).await?;
    for (n, chunk) in secrets.chunks(10_000).enumerate() {
        let hashes: Vec<Vec<u8>> = chunk.iter().map(|secret| key::sha256(secret).to_vec()).collect();
        let ids: Vec<String> = (0..chunk.len()).map(|i| format!("key_bench_{n}_{i}")).collect();
        sqlx::query(
            "INSERT INTO control.credentials (sha256, key_id, name, org_id, role, scopes) \
             SELECT hash, id, 'bench', $3, 'member', '{}' FROM unnest($1::bytea[], $2::text[]) AS new (hash, id)",
        )
        .bind(&hashes)
        .bind(&ids)
        .bind(org)
        .execute(&mut raw)
        .await?;
    }
    Ok(secrets)
}

/// Requests a second, each with a key that the gateway has not seen.
async fn each_once(client: &Client, path: &str, secrets: &[String]) -> Result<f64> {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for part in secrets.chunks(secrets.len().div_ceil(CONNECTIONS)) {
        let clients: Vec<Client> = part.iter().map(|secret| client.with_key(secret)).collect();
        let path = path.to_owned();
        tasks.spawn(async move {
            for client in clients {
                client.get(&path).await?;
            }
            Ok::<(), anyhow::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let count = secrets.len() as f64;
    Ok(count / began.elapsed().as_secs_f64())
}

/// So many requests, over all keys in turn.
async fn spread(client: &Client, path: &str, secrets: &[String], requests: usize) -> Result<()> {
    let (next, secrets) = (Arc::new(AtomicUsize::new(0)), Arc::new(secrets.to_vec()));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (next, secrets, client, path) =
            (Arc::clone(&next), Arc::clone(&secrets), client.clone(), path.to_owned());
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= requests {
                    return Ok::<(), anyhow::Error>(());
                }
                let answer =
                    client.with_key(&secrets[n % secrets.len()]).request(Method::GET, &path).send().await?;
                let (status, body) = (answer.status(), answer.bytes().await?);
                anyhow::ensure!(status == 200, "{path} answers {status}: {}", String::from_utf8_lossy(&body));
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// From the answer to a revocation at one gateway to the first refusal at the other.
async fn revocations(owner: &Client, far: &Client, org: &str, path: &str) -> Result<Vec<Duration>> {
    let keys = format!("/v1/orgs/{org}/keys");
    let mut waits = Vec::new();
    for _ in 0..REVOKED {
        let made = owner.post(&keys, &json!({ "name": "bench", "role": "viewer" })).await?;
        let there = far.with_key(&text(&made, "secret"));
        there.get(path).await?;
        there.get(path).await?;
        owner.delete(&format!("{keys}/{}", text(&made["key"], "id"))).await?;
        let began = Instant::now();
        while there.call(Method::GET, path, None).await?.status != 401 {
            anyhow::ensure!(began.elapsed() < Duration::from_secs(10), "a revoked key works for 10 s");
        }
        waits.push(began.elapsed());
    }
    Ok(waits)
}

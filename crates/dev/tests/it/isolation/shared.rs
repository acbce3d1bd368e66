//! What tenants share without seeing it: the gateway's and the services' memory, the queue of work, the pools.

use std::collections::BTreeSet;
use std::time::Duration;

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::TestStack;
use reqwest::Method;
use serde_json::json;

use super::attackers::Attackers;
use super::report::Report;
use super::victim::Victim;

/// What gateways and services keep is kept apart, however the requests are mixed.
pub(super) async fn caches(victim: &mut Victim, attackers: &Attackers, report: &mut Report) {
    let lists = [
        ("Orgs.GetOrg", ""),
        ("Members.ListMembers", "/members"),
        ("Agents.ListAgents", "/agents"),
        ("Secrets.ListSecrets", "/secrets"),
        ("Subscriptions.GetSubscription", "/subscription"),
        ("Invitations.ListInvitations", "/invitations"),
    ];
    for (rpc, rest) in lists {
        let (mut own, mut theirs, mut crossed) = (true, true, true);
        let (vp, ap) = (victim.at(rest), attackers.at(rest));
        let (w, a) = (&victim.world.owner, &attackers.owner);
        let (expected, mine) = (w.get(&vp).await.unwrap(), a.get(&ap).await.unwrap());
        for _ in 0..10 {
            let (one, two, three, four) = futures_util::future::join4(
                w.call(Method::GET, &vp, None),
                a.call(Method::GET, &ap, None),
                a.call(Method::GET, &vp, None),
                w.call(Method::GET, &ap, None),
            )
            .await;
            own &= one.unwrap().body == expected;
            theirs &= two.unwrap().body == mine;
            crossed &= three.unwrap().status == 404 && four.unwrap().status == 404;
        }
        report.row(
            "Caches",
            rpc,
            "owner",
            "40 requests of both, mixed",
            own && theirs && crossed,
            "each its own",
        );
    }
    victim.ask("caches", report).await;
}

/// Work of the victim's goes to the victim's runner alone.
pub(super) async fn queue(
    stack: &TestStack,
    victim: &mut Victim,
    attackers: &Attackers,
    report: &mut Report,
) {
    let w = &victim.world;
    let runner = stack.operator().unwrap().with_key(&attackers.world.runner);
    let item = json!({ "agent_id": w.agent, "title": "victim's title" });
    let item = w.owner.post(&victim.at("/work-items"), &item).await.unwrap();
    let job = item["job_ids"][0].as_str().unwrap().to_owned();
    let mut held = true;
    for _ in 0..10 {
        let claim = json!({ "wait_seconds": 0, "max_jobs": 16 });
        let answer = runner.call(Method::POST, "/v1/runner/jobs:claim", Some(&claim)).await.unwrap();
        held &= victim.shown_in(&answer.body, "").is_none() && !answer.body.to_string().contains(&job);
    }
    let ended = crate::world::finished(&w.owner, &w.org, &job).await;
    held &= ended["state"] == "completed";
    let how = "asks for work while the victim's waits";
    report.row("The queue", "Runner.ClaimJobs", "runner", how, held, text(&ended, "state"));
    victim.look_anew().await;
}

const TASKS: u64 = 4;
const STEPS: u64 = 40;

/// Two tenants at the product's own pools, each with a few connections: random deeds of both, some given up in the middle.
/// Whatever the order, each has what it made itself, and nothing else.
pub(super) async fn interleavings(
    victim: &mut Victim,
    attackers: &Attackers,
    seed: u64,
    report: &mut Report,
) {
    let sides = [(victim.world.owner.clone(), victim.at("")), (attackers.owner.clone(), attackers.at(""))];
    let tasks = (0..TASKS).map(|task| {
        let sides = sides.clone();
        tokio::spawn(async move {
            let mut pick = crate::random::picker(seed ^ ((task + 1) << 40));
            let (mut made, mut may, mut wrong) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
            for step in 0..STEPS {
                let side = usize::try_from(pick(2)).unwrap();
                let (client, at) = &sides[side];
                let name = format!("S{side}_{task}_{step}");
                let secret = format!("{at}/secrets/{name}");
                match pick(5) {
                    0 => {
                        client.put(&secret, &json!({ "value": name })).await.unwrap();
                        made.insert(name);
                    }
                    1 => {
                        // Given up while it is under way.
                        let value = json!({ "value": name });
                        let put = client.put(&secret, &value);
                        let _ = tokio::time::timeout(Duration::from_millis(pick(6)), put).await;
                        may.insert(name);
                    }
                    2 => {
                        // Refused by the database's own rules, after it was begun.
                        let agent = json!({ "handle": "worker" });
                        client.call(Method::POST, &format!("{at}/agents"), Some(&agent)).await.unwrap();
                    }
                    _ => {
                        let seen = names(client, at).await;
                        wrong.extend(
                            seen.into_iter().filter(|name| name.starts_with(&format!("S{}_", 1 - side))),
                        );
                    }
                }
            }
            (made, may, wrong)
        })
    });
    let (mut made, mut may, mut wrong) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for task in tasks.collect::<Vec<_>>() {
        let (m, n, w) = task.await.unwrap();
        made.extend(m);
        may.extend(n);
        wrong.extend(w);
    }
    // What was given up may still arrive.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (side, (client, at)) in sides.iter().enumerate() {
        let own = |name: &&String| name.starts_with(&format!("S{side}_"));
        let seen: BTreeSet<String> =
            names(client, at).await.into_iter().filter(|name| name.starts_with('S')).collect();
        let lost = made.iter().filter(own).filter(|name| !seen.contains(*name));
        let odd = seen.iter().filter(|name| !own(name) || !(made.contains(*name) || may.contains(*name)));
        wrong.extend(lost.chain(odd).cloned());
    }
    let how =
        format!("{} random deeds of two organizations in {TASKS} tasks, NITEJAR_SEED={seed}", TASKS * STEPS);
    let told = match wrong.as_slice() {
        [] => format!("each has its own: {} made", made.len()),
        _ => format!("{wrong:?}"),
    };
    report.row("Interleavings", "over HTTP, on the services' own pools", "both", how, wrong.is_empty(), told);
    victim.look_anew().await;
}

async fn names(client: &Client, at: &str) -> Vec<String> {
    let all = client.all(&format!("{at}/secrets"), "secrets").await.unwrap();
    all.iter().map(|secret| text(secret, "name")).collect()
}

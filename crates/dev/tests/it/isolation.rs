//! The proof that no tenant reaches another's data. Every RPC that there is × everybody who could ask; each attack is a row of
//! a report, and after each group the victim is asked. `cargo xtask prove-isolation` runs this and says where the report is.

mod again;
mod attackers;
mod database;
mod installations;
mod page;
mod report;
mod routes;
mod services;
mod shared;
mod tenant;
mod victim;

use nitejar_dev::client::{Answer, text};
use nitejar_dev::test_stack::TestStack;

use attackers::Attackers;
use report::Report;
use victim::Victim;

/// What a build with the feature `broken` gives away: the agent's id in the body of this RPC is trusted.
const BROKEN: &str = "WorkItems.CreateWorkItem";

/// Who comes past the gateway, to each service.
const AT_THE_SERVICE: [&str; 5] = [
    "no token",
    "a token for another service",
    "a token signed by nobody",
    "a service that speaks for the victim's owner",
    "a gateway that speaks for a service",
];

/// Random orders on a database of their own.
const SEEDS: usize = 3;

fn said(answer: &Answer) -> String {
    format!("{} {}", answer.status, text(&answer.body, "code"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_leads_from_one_organization_to_another() {
    let stack = TestStack::start().await.unwrap();
    let mut victim = Victim::new(&stack).await;
    let attackers = Attackers::new(&stack).await;
    let (v, a, mut report) = (&mut victim, &attackers, Report::default());
    let seed = crate::random::seed();
    tenant::every_rpc(v, a, &mut report).await;
    tenant::nested(v, a, &mut report).await;
    tenant::filters(v, a, &mut report).await;
    routes::every_route(v, a, &mut report).await;
    routes::internals(v, a, &mut report).await;
    routes::webhooks(&stack, v, a, &mut report).await;
    installations::installations(&stack, v, a, &mut report).await;
    again::page_tokens(v, a, &mut report).await;
    again::idempotency(v, a, &mut report).await;
    again::streams(v, a, &mut report).await;
    again::exports(v, a, &mut report).await;
    shared::caches(v, a, &mut report).await;
    shared::queue(&stack, v, a, &mut report).await;
    shared::interleavings(v, a, seed, &mut report).await;
    services::every_rpc(&stack, v, a, &mut report).await;
    database::logins(&stack, v, a, &mut report).await;
    pools(seed, &mut report).await;
    routes::sign_outs(v, a, &mut report).await;
    v.ask("everything", &mut report).await;
    report.write();
    let everybody: Vec<String> = attackers.all.iter().map(|attacker| attacker.name.clone()).collect();
    report.assert_all_hold(&everybody);
    stack.stop().await.unwrap();
}

/// Two tenants on the same few connections of a database, with all that can go wrong in between.
async fn pools(seed: u64, report: &mut Report) {
    for i in 0..SEEDS {
        let seed = seed.wrapping_add(i as u64);
        let outcome = nitejar_db::testing::interleavings::run(seed).await;
        let held = outcome.is_ok();
        let (steps, told) = match outcome {
            Ok(o) => {
                let told = format!(
                    "each has its own: {} written, {} broken off, {} looks",
                    o.committed, o.broken_off, o.looked
                );
                (o.steps, told)
            }
            Err(error) => (0, format!("{error:#}")),
        };
        let how = format!("{steps} random steps of two tenants on two connections, NITEJAR_SEED={seed}");
        report.row("Interleavings", "in the database layer", "both", how, held, told);
    }
}

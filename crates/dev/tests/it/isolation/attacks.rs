//! What can be tried over HTTP.

use nitejar_dev::client::{Answer, Client, text};
use nitejar_dev::test_stack::TestStack;
use nitejar_proto::POOL;
use nitejar_proto::policy::Scope;
use prost_reflect::Kind;
use reqwest::Method;
use serde_json::{Value, json};

use super::report::Report;
use super::{Attackers, Victim};
use crate::endpoints::{ENDPOINTS, Endpoint, Ids};
use crate::world::World;

fn said(answer: &Answer) -> String {
    format!("{} {}", answer.status, text(&answer.body, "code"))
}

fn shape(answer: &Answer) -> (Value, Value, Value) {
    let v = &answer.body;
    (v["code"].clone(), v["title"].clone(), v["status"].clone())
}

async fn call(client: &Client, endpoint: &Endpoint, ids: &Ids) -> (Answer, String) {
    let (path, body) = (endpoint.path(ids), endpoint.body(ids));
    let question = format!("{path} {}", body.clone().unwrap_or_default());
    (client.call(endpoint.method(), &path, body.as_ref()).await.unwrap(), question)
}

/// Each endpoint of an organization × each attacker: the victim's path, and the victim's ids in one's own organization.
pub(super) async fn every_endpoint(victim: &Victim, attackers: &Attackers, report: &mut Report) {
    let theirs = Ids::of(&victim.world);
    let mixed = Ids { org: attackers.org.clone(), ..theirs.clone() };
    let nothing = Ids::of_nothing("org_01h2xcejqtf2nbrexx3vqjhp41");
    for endpoint in ENDPOINTS.iter().filter(|e| e.policy().scope == Scope::Tenant) {
        for (who, client) in &attackers.all {
            // As if the organization did not exist.
            let (answer, question) = call(client, endpoint, &theirs).await;
            let (none, _) = call(client, endpoint, &nothing).await;
            let held = answer.status == 404
                && shape(&answer) == shape(&none)
                && victim.shown_in(&answer.body, &question).is_none();
            report.row("The victim's address", endpoint.rpc, *who, "its path and ids", held, said(&answer));
            // What changes the attackers' own organization for good is left out: it has no victim.
            let ends = matches!(endpoint.rpc, "Members.LeaveOrg" | "Orgs.DeleteOrg" | "Orgs.RestoreOrg");
            if ends || matches!(*who, "stranger" | "operator") {
                continue;
            }
            let (answer, mut question) = call(client, endpoint, &mixed).await;
            if endpoint.rpc == "AuditEvents.ListAuditEvents" {
                // One's own log tells what one has tried oneself: ids that one knew already.
                question.push_str(&victim.ids());
            }
            let template = &endpoint.policy().http.as_ref().unwrap().template;
            // A secret's name may be one's own, too.
            let names_a_thing = template.matches('{').count() > 1 && !template.contains("{name}");
            let held = victim.shown_in(&answer.body, &question).is_none()
                && (!names_a_thing || answer.status >= 400);
            report.row(
                "The victim's ids in one's own organization",
                endpoint.rpc,
                *who,
                "in path and body",
                held,
                said(&answer),
            );
        }
        let held = victim.is_unharmed().await;
        report.row("The victim afterwards", endpoint.rpc, "owner", "reads everything", held, "as before");
    }
    // The same ids deeper in bodies.
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", attackers.org);
    let w = &victim.world;
    let own = attackers
        .owner
        .post(&at("/agents"), &json!({ "handle": "own", "config": { "command": "true" } }))
        .await
        .unwrap();
    for (rpc, method, path, body) in [
        (
            "Keys.CreateKey",
            Method::POST,
            at("/keys"),
            json!({ "name": "k", "role": "viewer", "role_ids": [w.role] }),
        ),
        (
            "Invitations.CreateInvitation",
            Method::POST,
            at("/invitations"),
            json!({ "email": "n@example.com", "role": "viewer", "role_ids": [w.role] }),
        ),
        (
            "WorkItems.CreateWorkItem",
            Method::POST,
            at("/work-items"),
            json!({ "agent_id": w.agent, "title": "t", "session_key": w.work_item }),
        ),
        (
            "Agents.UpdateAgent",
            Method::PATCH,
            at(&format!("/agents/{}", text(&own, "id"))),
            json!({ "config": { "command": "env", "secrets": ["TOKEN"] } }),
        ),
        ("Ownership.OfferOwnership", Method::POST, at("/ownership-offer"), json!({ "user_id": w.member_id })),
    ] {
        let answer = attackers.owner.call(method, &path, Some(&body)).await.unwrap();
        let held = victim.shown_in(&answer.body, &format!("{path} {body}")).is_none()
            && (rpc == "Agents.UpdateAgent" || answer.status >= 400);
        report.row("Ids within bodies", rpc, "owner", body.to_string(), held, said(&answer));
    }
    // The agent that names a secret which only the victim has gets none.
    let item = json!({ "agent_id": text(&own, "id"), "title": "t" });
    let item = attackers.owner.post(&at("/work-items"), &item).await.unwrap();
    let job =
        crate::world::finished(&attackers.owner, &attackers.org, item["job_ids"][0].as_str().unwrap()).await;
    let held = victim.shown_in(&job, "").is_none() && !job.to_string().contains("victims-secret-value");
    report.row(
        "Ids within bodies",
        "secrets of a job",
        "owner",
        "a secret's name that only the victim has",
        held,
        text(&job, "state"),
    );
}

/// A runner's token opens its own Sprite's jobs only.
pub(super) async fn runners(stack: &TestStack, victim: &Victim, report: &mut Report) {
    let other = World::new(stack).await;
    let runner = stack.operator().unwrap().with_key(&other.runner);
    let theirs = Ids::of(&victim.world);
    for endpoint in ENDPOINTS.iter().filter(|e| e.policy().scope == Scope::Runner) {
        let (answer, _) = call(&runner, endpoint, &theirs).await;
        let held = match endpoint.rpc {
            "Runner.ClaimJobs" => victim.shown_in(&answer.body, "").is_none(),
            _ => answer.body["code"] == "stale_lease",
        };
        report.row(
            "Another organization's runner",
            endpoint.rpc,
            "runner",
            "the victim's job",
            held,
            said(&answer),
        );
    }
    for endpoint in ENDPOINTS.iter().filter(|e| e.policy().scope == Scope::Tenant) {
        let (answer, _) = call(&runner, endpoint, &theirs).await;
        report.row(
            "Another organization's runner",
            endpoint.rpc,
            "runner",
            "its path",
            answer.status >= 400,
            said(&answer),
        );
    }
    let held = victim.is_unharmed().await;
    report.row("The victim afterwards", "runners", "owner", "reads everything", held, "as before");
}

/// Every field of a list that narrows it, filled with what is the victim's.
pub(super) async fn filters(victim: &Victim, attackers: &Attackers, report: &mut Report) {
    let ids = Ids { org: attackers.org.clone(), ..Ids::of_nothing(&attackers.org) };
    let w = &victim.world;
    for endpoint in
        ENDPOINTS.iter().filter(|e| e.policy().scope == Scope::Tenant && e.method() == Method::GET)
    {
        let policy = endpoint.policy();
        let service = POOL.get_service_by_name(&policy.service).unwrap();
        let input = service.methods().find(|m| m.name() == policy.method).unwrap().input();
        let template = &policy.http.as_ref().unwrap().template;
        for field in input.fields().filter(|f| f.kind() == Kind::String) {
            let name = field.name();
            if template.contains(&format!("{{{name}}}")) || name == "page_token" {
                continue;
            }
            for value in [&w.org, &w.agent, &w.job, &w.work_item, &w.member_id, &w.key, &w.event] {
                let path = endpoint.path(&ids);
                let joint = if path.contains('?') { '&' } else { '?' };
                if path.contains(&format!("{name}=")) {
                    continue;
                }
                let path = format!("{path}{joint}{name}={value}");
                let answer = attackers.owner.call(Method::GET, &path, None).await.unwrap();
                let held = victim.shown_in(&answer.body, &path).is_none() && answer.status < 500;
                report.row(
                    "Filters",
                    endpoint.rpc,
                    "owner",
                    format!("{name}={}", value.split('_').next().unwrap()),
                    held,
                    said(&answer),
                );
            }
        }
    }
}

/// The victim's page tokens, in one's own organization and in theirs.
pub(super) async fn page_tokens(victim: &Victim, attackers: &Attackers, report: &mut Report) {
    for (rpc, list) in [
        ("Members.ListMembers", "/members"),
        ("AuditEvents.ListAuditEvents", "/audit-events"),
        ("Usage.ListUsageEntries", "/usage/entries"),
    ] {
        let page = victim
            .world
            .owner
            .get(&format!("/v1/orgs/{}{list}?page_size=1", victim.world.org))
            .await
            .unwrap();
        let token = text(&page, "next_page_token");
        if token.is_empty() {
            continue;
        }
        for (how, org) in
            [("in one's own organization", &attackers.org), ("in the victim's", &victim.world.org)]
        {
            let path = format!("/v1/orgs/{org}{list}?page_size=1&page_token={token}");
            let answer = attackers.owner.call(Method::GET, &path, None).await.unwrap();
            let held = answer.status >= 400 && victim.shown_in(&answer.body, &path).is_none();
            report.row("Page tokens of the victim's", rpc, "owner", how, held, said(&answer));
        }
    }
}

/// The victim's idempotency key with the victim's request.
pub(super) async fn idempotency(victim: &mut Victim, attackers: &Attackers, report: &mut Report) {
    let held = victim.is_unharmed().await;
    report.row(
        "The victim afterwards",
        "filters and page tokens",
        "owner",
        "reads everything",
        held,
        "as before",
    );
    let (w, body) = (&victim.world, json!({ "name": "once", "role": "viewer" }));
    let keyed = |client: &Client, org: &str| {
        client
            .request(Method::POST, &format!("/v1/orgs/{org}/keys"))
            .header("idempotency-key", "the-victims")
            .json(&body)
    };
    let first = Client::send(keyed(&w.owner, &w.org)).await.unwrap();
    let secret = text(&first.body, "secret");
    for (who, client) in &attackers.all {
        for (how, org) in [("at the victim's address", &w.org), ("at one's own", &attackers.org)] {
            let answer = Client::send(keyed(client, org)).await.unwrap();
            let replayed =
                answer.headers.contains_key("idempotency-replayed") && how == "at the victim's address";
            let held = !answer.body.to_string().contains(&secret) && !replayed;
            report.row("The victim's idempotency key", "Keys.CreateKey", *who, how, held, said(&answer));
        }
    }
    w.owner.delete(&format!("/v1/orgs/{}/keys/{}", w.org, text(&first.body["key"], "id"))).await.unwrap();
    victim.look_anew().await;
}

/// Streams, and where they are resumed.
pub(super) async fn streams(victim: &Victim, attackers: &Attackers, report: &mut Report) {
    for (who, client) in &attackers.all {
        for (how, org) in
            [("in the victim's", &victim.world.org), ("in one's own organization", &attackers.org)]
        {
            for last in ["0", "1", "999999"] {
                let path = format!("/v1/orgs/{org}/jobs/{}/logs:stream", victim.world.job);
                let request = client.request(Method::GET, &path).header("last-event-id", last);
                let answer = Client::send(request).await.unwrap();
                let held = answer.status >= 400 && !answer.body.to_string().contains("victim\\n");
                report.row(
                    "Streams",
                    "Jobs.StreamJobLogs",
                    *who,
                    format!("{how}, after {last}"),
                    held,
                    said(&answer),
                );
            }
        }
    }
}

/// One's own export, and the victim's.
pub(super) async fn exports(victim: &Victim, attackers: &Attackers, report: &mut Report) {
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", attackers.org);
    let made = attackers.owner.post(&at("/exports"), &json!({})).await.unwrap();
    let path = at(&format!("/exports/{}", text(&made, "id")));
    let ready = attackers.owner.until(&path, 30, "the export", |v| v["state"] == "ready").await.unwrap();
    for part in ready["parts"].as_array().unwrap() {
        let lines = attackers
            .owner
            .request(Method::GET, &format!("{path}/parts/{}", part["number"]))
            .send()
            .await
            .unwrap();
        let lines = lines.text().await.unwrap();
        // Their own log tells what they tried, in their own words: ids they named themselves.
        let shown = lines.contains("victims-secret-value") || lines.contains("victim's title");
        report.row(
            "Exports",
            format!("{} {}", text(part, "service"), text(part, "table")),
            "owner",
            "their own",
            !shown,
            "nothing of the victim's",
        );
    }
    for (who, client) in &attackers.all {
        for rest in ["", "/parts/1"] {
            let path = at(&format!("/exports/{}{rest}", victim.world.export));
            let answer = client.call(Method::GET, &path, None).await.unwrap();
            let held = answer.status >= 400;
            report.row(
                "Exports",
                format!("the victim's{rest}"),
                *who,
                "in one's own organization",
                held,
                said(&answer),
            );
        }
    }
}

/// What gateways and services keep is kept apart, however the requests are mixed.
pub(super) async fn caches(victim: &Victim, attackers: &Attackers, report: &mut Report) {
    let w = &victim.world;
    for rest in ["", "/members", "/agents", "/secrets", "/keys"] {
        let (mut own, mut theirs, mut crossed) = (true, true, true);
        let (vp, ap) = (format!("/v1/orgs/{}{rest}", w.org), format!("/v1/orgs/{}{rest}", attackers.org));
        let (expected, mine) = (w.owner.get(&vp).await.unwrap(), attackers.owner.get(&ap).await.unwrap());
        for _ in 0..20 {
            let (a, b, c, d) = futures_util::future::join4(
                w.owner.call(Method::GET, &vp, None),
                attackers.owner.call(Method::GET, &ap, None),
                attackers.owner.call(Method::GET, &vp, None),
                w.owner.call(Method::GET, &ap, None),
            )
            .await;
            own &= a.unwrap().body == expected;
            theirs &= b.unwrap().body == mine;
            crossed &= c.unwrap().status == 404 && d.unwrap().status == 404;
        }
        report.row(
            "Caches",
            format!("GET …{rest}"),
            "owner",
            "80 requests of both, mixed",
            own && theirs && crossed,
            "each its own",
        );
    }
}

/// Work of the victim's goes to the victim's runner alone.
pub(super) async fn queue(stack: &TestStack, victim: &mut Victim, report: &mut Report) {
    let held = victim.is_unharmed().await;
    report.row(
        "The victim afterwards",
        "streams, exports, caches",
        "owner",
        "reads everything",
        held,
        "as before",
    );
    let w = &victim.world;
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", w.org);
    let other = World::new(stack).await;
    let runner = stack.operator().unwrap().with_key(&other.runner);
    let item = json!({ "agent_id": w.agent, "title": "victim's title" });
    let item = w.owner.post(&at("/work-items"), &item).await.unwrap();
    let job = item["job_ids"][0].as_str().unwrap().to_owned();
    let mut held = true;
    for _ in 0..10 {
        let claim = json!({ "wait_seconds": 0, "max_jobs": 16 });
        let answer = runner.call(Method::POST, "/v1/runner/jobs:claim", Some(&claim)).await.unwrap();
        held &= !answer.body.to_string().contains(&job);
    }
    let ended = crate::world::finished(&w.owner, &w.org, &job).await;
    held &= ended["state"] == "completed";
    report.row(
        "The queue",
        "Runner.ClaimJobs",
        "runner",
        "asks for work while the victim's waits",
        held,
        text(&ended, "state"),
    );
    victim.look_anew().await;
}

//! Every RPC of an organization, by everybody: at the victim's address, and with the victim's ids in one's own.

use futures_util::future::join_all;
use nitejar_dev::client::{Answer, text};
use nitejar_proto::POOL;
use nitejar_proto::policy::Scope;
use prost_reflect::Kind as FieldKind;
use reqwest::Method;
use serde_json::{Value, json};

use super::attackers::{Attacker, Attackers, Kind};
use super::report::Report;
use super::said;
use super::victim::Victim;
use crate::endpoints::{ENDPOINTS, Endpoint, Ids};

fn shape(answer: &Answer) -> (Value, Value, Value) {
    let v = &answer.body;
    (v["code"].clone(), v["title"].clone(), v["status"].clone())
}

pub(super) fn tenants() -> impl Iterator<Item = &'static Endpoint> {
    ENDPOINTS.iter().filter(|e| e.policy().scope == Scope::Tenant)
}

async fn call(attacker: &Attacker, endpoint: &Endpoint, ids: &Ids) -> (Answer, String) {
    let (path, body) = (endpoint.path(ids), endpoint.body(ids));
    let question = format!("{path} {}", body.clone().unwrap_or_default());
    (attacker.call(endpoint.method(), &path, body.as_ref()).await, question)
}

/// At the victim's address everything looks as if the organization did not exist.
async fn at_the_address(
    attacker: &Attacker,
    endpoint: &Endpoint,
    theirs: &Ids,
    victim: &Victim,
) -> (bool, Answer) {
    let (answer, question) = call(attacker, endpoint, theirs).await;
    let refused = match attacker.kind {
        Kind::Nobody => answer.status == 401,
        Kind::Runner => answer.status == 403,
        _ => {
            let nothing = Ids::of_nothing("org_01h2xcejqtf2nbrexx3vqjhp41");
            let (none, _) = call(attacker, endpoint, &nothing).await;
            answer.status == 404 && shape(&answer) == shape(&none)
        }
    };
    (refused && victim.shown_in(&answer.body, &question).is_none(), answer)
}

/// In one's own organization the victim's ids name nothing.
async fn with_its_ids(
    attacker: &Attacker,
    endpoint: &Endpoint,
    mixed: &Ids,
    victim: &Victim,
) -> (bool, Answer) {
    let (answer, mut question) = call(attacker, endpoint, mixed).await;
    let names_a_thing = victim.named_in(&question);
    if matches!(endpoint.rpc, "AuditEvents.ListAuditEvents" | "AuditEvents.VerifyAuditChain") {
        // One's own log tells what one has tried oneself: ids that one knew already.
        question.push_str(&victim.ids());
    }
    let shown = victim.shown_in(&answer.body, &question).is_some();
    // What is said of the victim's member is what is said of nobody: that they may nothing here.
    let of_nobody = endpoint.rpc == "Roles.ExplainAccess" && {
        let nothing = Ids { org: mixed.org.clone(), ..Ids::of_nothing(&mixed.org) };
        let (none, _) = call(attacker, endpoint, &nothing).await;
        none.status == answer.status && none.body == answer.body
    };
    let granted = answer.status < 400 && !of_nobody;
    (!shown && answer.status < 500 && !(names_a_thing && granted), answer)
}

pub(super) async fn every_rpc(victim: &mut Victim, attackers: &Attackers, report: &mut Report) {
    let theirs = Ids::of(&victim.world);
    let mixed = Ids { org: attackers.world.org.clone(), ..theirs.clone() };
    for endpoint in tenants() {
        let by_all = attackers.all.iter().map(async |attacker| {
            let first = at_the_address(attacker, endpoint, &theirs, victim).await;
            // Whoever leaves attacks no more.
            let leaves = endpoint.rpc == "Members.LeaveOrg" && attacker.kind == Kind::Member;
            let second = match attacker.kind.has_org() && !leaves {
                true => Some(with_its_ids(attacker, endpoint, &mixed, victim).await),
                false => None,
            };
            (attacker, first, second)
        });
        for (attacker, (held, answer), second) in join_all(by_all).await {
            let by = attacker.name.clone();
            report.row(
                "The victim's address",
                endpoint.rpc,
                by.clone(),
                "its path and ids",
                held,
                said(&answer),
            );
            if let Some((held, answer)) = second {
                let how = "in path and body";
                let kind = "The victim's ids in one's own organization";
                report.row(kind, endpoint.rpc, by, how, held, said(&answer));
            }
        }
        victim.ask(endpoint.rpc, report).await;
    }
}

/// The same ids deeper in bodies.
pub(super) async fn nested(victim: &mut Victim, attackers: &Attackers, report: &mut Report) {
    let (w, own) = (&victim.world, &attackers.world);
    let member = attackers.at(&format!("/members/{}/roles", own.member_id));
    let agent = attackers.at(&format!("/agents/{}", own.agent));
    let bodies = [
        (
            "Keys.CreateKey",
            Method::POST,
            attackers.at("/keys"),
            json!({ "name": "k", "role": "viewer", "role_ids": [w.role] }),
        ),
        (
            "Keys.CreateKey",
            Method::POST,
            attackers.at("/keys"),
            json!({ "name": "k", "role": "viewer", "role_ids": [own.role, w.role] }),
        ),
        (
            "Invitations.CreateInvitation",
            Method::POST,
            attackers.at("/invitations"),
            json!({ "email": "n@example.com", "role": "viewer", "role_ids": [w.role] }),
        ),
        ("Roles.SetMemberRoles", Method::PUT, member, json!({ "role_ids": [own.role, w.role] })),
        (
            "WorkItems.CreateWorkItem",
            Method::POST,
            attackers.at("/work-items"),
            json!({ "agent_id": w.agent, "title": "t", "dedupe_key": w.work_item }),
        ),
        (
            "Ownership.OfferOwnership",
            Method::POST,
            attackers.at("/ownership-offer"),
            json!({ "user_id": w.member_id }),
        ),
    ];
    let names = [(&w.role, "ROLE"), (&w.agent, "AGENT"), (&w.work_item, "WORK"), (&w.member_id, "MEMBER")]
        .map(|(id, name)| (id.clone(), name));
    for (rpc, method, path, body) in bodies {
        // Read as: the victim's ROLE, and a role of one's own.
        let mut how = body.to_string().replace(&own.role, "role");
        for (id, name) in &names {
            how = how.replace(id.as_str(), name);
        }
        for attacker in attackers.all.iter().filter(|a| a.kind.has_org()) {
            let answer = attacker.call(method.clone(), &path, Some(&body)).await;
            let question = format!("{path} {body}");
            let held =
                victim.shown_in(&answer.body, &question).is_none() && (400..500).contains(&answer.status);
            report.row("Ids within bodies", rpc, attacker.name.clone(), how.clone(), held, said(&answer));
        }
        victim.ask(rpc, report).await;
    }
    // An agent that names a secret which only the victim has gets none.
    let config = json!({ "config": { "command": "env; true", "secrets": ["VICTIMS"] } });
    let owner = &attackers.owner;
    let named = owner.call(Method::PATCH, &agent, Some(&config)).await.unwrap();
    let item = json!({ "agent_id": own.agent, "title": "t" });
    let item = owner.post(&attackers.at("/work-items"), &item).await.unwrap();
    let job = item["job_ids"][0].as_str().unwrap();
    let ended = crate::world::finished(owner, &own.org, job).await;
    let logs = owner.get(&attackers.at(&format!("/jobs/{job}/logs"))).await.unwrap();
    let shown = |value: &Value| value.to_string().contains("victims-other-value");
    let held = named.status < 500 && !shown(&ended) && !shown(&logs);
    let how = "a secret's name that only the victim has, in an agent's configuration";
    report.row("Ids within bodies", "Agents.UpdateAgent", "owner", how, held, text(&ended, "state"));
    victim.ask("Agents.UpdateAgent", report).await;
}

/// Every field of a request that narrows it, filled with what is the victim's.
pub(super) async fn filters(victim: &mut Victim, attackers: &Attackers, report: &mut Report) {
    let ids = Ids { org: attackers.world.org.clone(), ..Ids::of(&attackers.world) };
    let w = &victim.world;
    let values =
        [&w.org, &w.agent, &w.job, &w.work_item, &w.member_id, &w.key, &w.event, &w.role, &victim.email];
    let mut rows = Vec::new();
    for endpoint in tenants().filter(|e| e.method() == Method::GET) {
        let policy = endpoint.policy();
        let service = POOL.get_service_by_name(&policy.service).unwrap();
        let input = service.methods().find(|m| m.name() == policy.method).unwrap().input();
        let template = &policy.http.as_ref().unwrap().template;
        for field in input.fields().filter(|f| f.kind() == FieldKind::String) {
            let (name, path) = (field.name().to_owned(), endpoint.path(&ids));
            if template.contains(&format!("{{{name}}}")) || name == "page_token" {
                continue;
            }
            // A field that must be there is replaced.
            let (bare, query) = path.split_once('?').unwrap_or((&path, ""));
            let others =
                query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with(&format!("{name}=")));
            let others: String = others.map(|pair| format!("{pair}&")).collect();
            for value in values {
                rows.push((
                    endpoint.rpc,
                    name.clone(),
                    format!("{bare}?{others}{name}={value}"),
                    value.clone(),
                ));
            }
        }
    }
    let answers = rows.into_iter().map(async |(rpc, name, path, value)| {
        let answer = attackers.owner.call(Method::GET, &path, None).await.unwrap();
        (rpc, name, path, value, answer)
    });
    for (rpc, name, path, value, answer) in join_all(answers).await {
        let question = match rpc.starts_with("AuditEvents.") {
            true => format!("{path} {}", victim.ids()),
            false => path,
        };
        let held = victim.shown_in(&answer.body, &question).is_none() && answer.status < 500;
        let what = value.split(['_', '@']).next().unwrap().split('-').next().unwrap();
        report.row("Filters", rpc, "owner", format!("{name}={what}…"), held, said(&answer));
    }
    victim.ask("filters", report).await;
}

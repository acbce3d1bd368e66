//! What is asked for a second time, a page further or from where it broke off: page tokens, idempotency keys, streams and
//! exports. Each works for the victim first, so that a refusal is one of the attackers and not of the question.

use futures_util::future::join_all;
use nitejar_dev::client::{Answer, Client, text};
use nitejar_proto::policy::Scope;
use nitejar_proto::{POLICIES, POOL};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::attackers::{Attacker, Attackers, Kind};
use super::report::Report;
use super::said;
use super::victim::Victim;
use crate::endpoints::{Ids, short};

/// The victim's page tokens of every list that there is, in one's own organization and in theirs.
pub(super) async fn page_tokens(victim: &mut Victim, attackers: &Attackers, report: &mut Report) {
    for policy in POLICIES.values() {
        let service = POOL.get_service_by_name(&policy.service).unwrap();
        let input = service.methods().find(|m| m.name() == policy.method).unwrap().input();
        if input.get_field_by_name("page_token").is_none() {
            continue;
        }
        let rpc = short(policy);
        let template = &policy.http.as_ref().unwrap().template;
        let theirs = Ids::of(&victim.world).fill(template);
        let of_operators = policy.scope == Scope::Operator;
        let operator = attackers.all.iter().find(|a| a.kind == Kind::Operator).unwrap();
        let query = format!("{theirs}?page_size=1");
        let page = match of_operators {
            true => operator.call(Method::GET, &query, None).await.body,
            false => victim.world.owner.get(&query).await.unwrap(),
        };
        let token = text(&page, "next_page_token");
        assert!(
            !token.is_empty(),
            "{rpc} has one page: give the victim a second thing of that in `victim::fill`"
        );
        let next = format!("{query}&page_token={token}");
        let works = match of_operators {
            true => operator.call(Method::GET, &next, None).await.status,
            false => victim.world.owner.call(Method::GET, &next, None).await.unwrap().status,
        };
        assert_eq!(works, 200, "{rpc}: the token is good for whom it was given to");
        let own = Ids { org: attackers.world.org.clone(), ..Ids::of(&attackers.world) }.fill(template);
        let mut places = vec![("in the victim's", theirs.clone())];
        if own != theirs {
            places.push(("in one's own organization", own));
        }
        for (how, path) in places {
            let path = format!("{path}?page_size=1&page_token={token}");
            let others = attackers.all.iter().filter(|a| !(of_operators && a.kind == Kind::Operator));
            let answers =
                others.map(async |attacker| (attacker, attacker.call(Method::GET, &path, None).await));
            for (attacker, answer) in join_all(answers).await {
                let held =
                    (400..500).contains(&answer.status) && victim.shown_in(&answer.body, &path).is_none();
                let by = attacker.name.clone();
                report.row("Page tokens of the victim's", rpc.clone(), by, how, held, said(&answer));
            }
        }
    }
    victim.ask("page tokens", report).await;
}

/// What makes something, in each service that does, and in which answers stand secrets.
fn makers(agent: &str) -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("Keys.CreateKey", "/keys", json!({ "name": "once", "role": "viewer" })),
        (
            "Invitations.CreateInvitation",
            "/invitations",
            json!({ "email": "once@example.com", "role": "viewer" }),
        ),
        ("Roles.CreateRole", "/roles", json!({ "name": "Once", "permissions": ["jobs.read"] })),
        ("Exports.CreateExport", "/exports", json!({})),
        ("Agents.CreateAgent", "/agents", json!({ "handle": "once" })),
        ("WorkItems.CreateWorkItem", "/work-items", json!({ "agent_id": agent, "title": "once" })),
        ("Integrations.StartGithubInstall", "/integrations:startGithubInstall", json!({})),
    ]
}

/// The victim's idempotency keys with the victim's requests.
pub(super) async fn idempotency(victim: &mut Victim, attackers: &Attackers, report: &mut Report) {
    let keyed = |request: RequestBuilder| request.header("idempotency-key", "the-victims");
    let mut made = Vec::new();
    for (rpc, rest, body) in makers(&victim.world.agent) {
        made.push((rpc, victim.at(rest), attackers.at(rest), body));
    }
    // An organization is made in nobody's: the key is the person's.
    let org = json!({ "slug": format!("{}-once", victim.slug), "name": "Once" });
    made.push(("Orgs.CreateOrg", "/v1/orgs".into(), "/v1/orgs".into(), org));
    let mut first = Vec::new();
    for (rpc, theirs, _, body) in &made {
        let make = async || {
            let request = victim.world.owner.request(Method::POST, theirs).json(body);
            Client::send(keyed(request)).await.unwrap()
        };
        let (answer, again) = (make().await, make().await);
        assert_eq!(answer.status, 200, "{rpc}: {}", answer.body);
        assert!(replayed(&again) && again.body == answer.body, "{rpc}: the victim is answered as before");
        first.push(unique(&answer.body));
    }
    victim.look_anew().await;
    for ((rpc, theirs, own, body), only) in made.iter().zip(first) {
        assert!(!only.is_empty(), "{rpc} answers with something that can be recognized");
        for (how, path) in [("at the victim's address", theirs), ("at one's own", own)] {
            let sent = attackers.all.iter().map(async |attacker| {
                let request = keyed(attacker.request(Method::POST, path, Some(body)));
                (attacker, Client::send(request).await.unwrap())
            });
            for (attacker, answer) in join_all(sent).await {
                let shown = only.iter().any(|text| answer.body.to_string().contains(text.as_str()));
                let there = how == "at the victim's address";
                // At one's own it is one's own key, and one's own thing. The victim's agent and its slug are nobody else's.
                let granted = answer.status < 400;
                let may = !there && !matches!(*rpc, "WorkItems.CreateWorkItem" | "Orgs.CreateOrg");
                let held =
                    !shown && (may || !granted) && answer.status < 500 && !(there && replayed(&answer));
                let by = attacker.name.clone();
                report.row("The victim's idempotency key", *rpc, by, how, held, said(&answer));
            }
        }
        victim.ask(*rpc, report).await;
    }
}

fn replayed(answer: &Answer) -> bool {
    answer.headers.contains_key("idempotency-replayed")
}

/// The texts of an answer that stand in no other: ids and secrets.
fn unique(answer: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![answer];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(list) => left.extend(list),
            Value::Object(fields) => left.extend(fields.values()),
            Value::String(text) if text.len() > 25 => found.push(text.clone()),
            Value::String(text) if text.starts_with("20") && text.len() > 19 => found.push(text.clone()),
            _ => {}
        }
    }
    found
}

/// Every stream, from the start and from where the victim's own broke off.
pub(super) async fn streams(victim: &mut Victim, attackers: &Attackers, report: &mut Report) {
    let streams = POLICIES.values().filter(|policy| {
        let service = POOL.get_service_by_name(&policy.service).unwrap();
        let method = service.methods().find(|m| m.name() == policy.method).unwrap();
        policy.http.is_some() && method.is_server_streaming()
    });
    let mut tried = 0;
    for policy in streams {
        let template = &policy.http.as_ref().unwrap().template;
        let theirs = Ids::of(&victim.world).fill(template);
        let mixed = Ids { org: attackers.world.org.clone(), ..Ids::of(&victim.world) }.fill(template);
        let lines =
            victim.world.owner.request(Method::GET, &theirs).send().await.unwrap().text().await.unwrap();
        let ids: Vec<&str> = lines.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
        assert!(ids.len() > 1 && lines.contains("victim"), "the victim's stream: {lines}");
        let rest = victim.world.owner.request(Method::GET, &theirs).header("last-event-id", ids[0]);
        let rest = rest.send().await.unwrap().text().await.unwrap();
        assert!(rest.contains(ids[1]), "the victim's goes on after {}: {rest}", ids[0]);
        for (how, path) in [("in the victim's", &theirs), ("in one's own organization", &mixed)] {
            for last in ["", "0", ids[0], "999999"] {
                for follow in ["", "?follow=true"] {
                    let path = format!("{path}{follow}");
                    let sent = attackers.all.iter().map(async |attacker| {
                        let mut request = attacker.request(Method::GET, &path, None);
                        if !last.is_empty() {
                            request = request.header("last-event-id", last);
                        }
                        (attacker, Client::send(request).await.unwrap())
                    });
                    for (attacker, answer) in join_all(sent).await {
                        let held = answer.status >= 400 && victim.shown_in(&answer.body, &path).is_none();
                        let how = format!("{how}{follow}, after {last:?}");
                        report.row("Streams", short(policy), attacker.name.clone(), how, held, said(&answer));
                        tried += 1;
                    }
                }
            }
        }
    }
    assert!(tried > 0, "no stream was tried");
    victim.ask("streams", report).await;
}

/// One's own export, the victim's, and parts of it.
pub(super) async fn exports(victim: &mut Victim, attackers: &Attackers, report: &mut Report) {
    let made = attackers.owner.call(Method::POST, &attackers.at("/exports"), Some(&json!({}))).await.unwrap();
    let own = if made.status == 200 { text(&made.body, "id") } else { attackers.world.export.clone() };
    let path = attackers.at(&format!("/exports/{own}"));
    let ready = attackers.owner.until(&path, 30, "the export", |v| v["state"] == "ready").await.unwrap();
    let lines = async |client: &Client, path: &str| {
        client.request(Method::GET, path).send().await.unwrap().text().await.unwrap()
    };
    // Texts that are in the victim's own, so that they would be found.
    let needles = ["victim's title", "victims-guest@example.com", victim.email.as_str()];
    let of_victim = victim.at(&format!("/exports/{}", victim.world.export));
    let parts = victim.world.owner.get(&of_victim).await.unwrap()["parts"].as_array().unwrap().len();
    let mut theirs = String::new();
    for part in 1..=parts {
        theirs.push_str(&lines(&victim.world.owner, &format!("{of_victim}/parts/{part}")).await);
    }
    assert!(theirs.contains(needles[0]) && theirs.contains(needles[2]), "the victim's export is its own");
    for part in ready["parts"].as_array().unwrap() {
        let lines = lines(&attackers.owner, &format!("{path}/parts/{}", part["number"])).await;
        // Their own log tells what they tried, in their own words: ids and addresses that they named themselves.
        let named = if text(part, "service") == "audit" { 1 } else { needles.len() };
        let shown = needles[..named].iter().any(|needle| lines.contains(needle))
            || lines.contains("victims-secret-value");
        let how = format!("their own: {} {}", text(part, "service"), text(part, "table"));
        report.row("Exports", "Exports.GetExportPart", "owner", how, !shown, "nothing of the victim's");
    }
    let foreign = [
        (
            "Exports.GetExport",
            attackers.at(&format!("/exports/{}", victim.world.export)),
            "the victim's, in one's own",
        ),
        (
            "Exports.GetExportPart",
            attackers.at(&format!("/exports/{}/parts/1", victim.world.export)),
            "a part of the victim's, in one's own",
        ),
        (
            "Exports.GetExportPart",
            format!("{path}/parts/{}", 9999),
            "a part that only another export could have",
        ),
        ("Exports.GetExportPart", format!("{of_victim}/parts/1"), "a part of the victim's, in theirs"),
    ];
    for (rpc, path, how) in &foreign {
        let sent = attackers.all.iter().map(async |a: &Attacker| (a, a.call(Method::GET, path, None).await));
        for (attacker, answer) in join_all(sent).await {
            let held = (400..500).contains(&answer.status) && victim.shown_in(&answer.body, path).is_none();
            report.row("Exports", *rpc, attacker.name.clone(), *how, held, said(&answer));
        }
    }
    victim.ask("exports", report).await;
}

//! Every route that belongs to no organization: a person's own, anybody's, operators', runners', GitHub's. Each is aimed at
//! the victim, with what is really the victim's wherever a request can hold it.

use futures_util::future::join_all;
use nitejar_dev::client::{Answer, Client, text};
use nitejar_dev::test_stack::TestStack;
use nitejar_proto::POLICIES;
use nitejar_proto::policy::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use super::attackers::{Attacker, Attackers, Kind};
use super::report::Report;
use super::said;
use super::victim::Victim;
use crate::endpoints::{ENDPOINTS, Endpoint, Ids, short};

/// They end the attackers' own sessions: at the very end.
const LAST: [&str; 2] = ["Sessions.SignOut", "Sessions.SignOutEverywhere"];

/// Path and body of a request that is aimed at the victim.
fn aimed(endpoint: &Endpoint, victim: &Victim) -> (String, Option<Value>) {
    let w = &victim.world;
    let mut ids = Ids { session: victim.session.clone(), ..Ids::of(w) };
    let token = |token: &str| Some(json!({ "token": token }));
    match endpoint.rpc {
        "Orgs.LookupOrg" => return (format!("/v1/orgs:lookup?slug={}", victim.slug), None),
        "Users.DeleteMe" => return (format!("/v1/me?email={}", victim.email), None),
        "Users.RevokeMyKey" => ids.key.clone_from(&victim.own_key),
        "Integrations.FinishGithubInstall" => {
            let (id, state) = (victim.installation, &victim.install_state);
            return (format!("/v1/github/setup?installation_id={id}&code=c&state={state}"), None);
        }
        _ => {}
    }
    let body = match endpoint.rpc {
        "Invitations.AcceptInvitation" | "Invitations.DeclineInvitation" => token(&w.invitation_token),
        "Orgs.CreateOrg" => Some(json!({ "slug": victim.slug, "name": "Mine" })),
        "Sessions.FinishSignIn" => token(&victim.link),
        "Users.CreateUser" => Some(json!({ "email": victim.email, "name": "M" })),
        _ => endpoint.body(&ids),
    };
    (endpoint.path(&ids), body)
}

/// What of these is about the caller alone, whatever it is aimed at: it must show nothing, and may be granted.
fn is_ones_own(rpc: &str) -> bool {
    let own = [
        "Users.GetMe",
        "Users.ListMyKeys",
        "Users.CreateMyKey",
        "Users.ExportMe",
        "Sessions.ListSessions",
        "Sessions.SignOut",
        "Sessions.SignOutEverywhere",
        "Orgs.ListOrgs",
        "Orgs.ListReceiptKeys",
        "Domains.ListJoinableOrgs",
        "Plans.ListPlans",
    ];
    own.contains(&rpc)
}

fn may_try(attacker: &Attacker, scope: Scope) -> bool {
    match scope {
        Scope::Public => true,
        Scope::User => attacker.kind.is_person(),
        Scope::Runner => attacker.kind == Kind::Runner,
        _ => false,
    }
}

/// A route that is not for them refuses them; one that is, names nothing of the victim's to them.
fn holds(attacker: &Attacker, endpoint: &Endpoint, answer: &Answer, question: &str, victim: &Victim) -> bool {
    let scope = endpoint.policy().scope;
    let refused = match (may_try(attacker, scope), scope) {
        (false, _) => matches!(answer.status, 401 | 403),
        (true, Scope::Runner) => endpoint.rpc == "Runner.ClaimJobs" || answer.body["code"] == "stale_lease",
        (true, _) => is_ones_own(endpoint.rpc) || (400..500).contains(&answer.status),
    };
    refused && victim.shown_in(&answer.body, question).is_none()
}

async fn attack(endpoint: &Endpoint, victim: &Victim, attackers: &Attackers, report: &mut Report) {
    let (path, body) = aimed(endpoint, victim);
    let question = format!("{path} {}", body.clone().unwrap_or_default());
    // What operators do there is their work; what they read of an organization needs a grant: see `tenant`.
    let operators = endpoint.policy().scope == Scope::Operator;
    let others = attackers.all.iter().filter(|a| !(operators && a.kind == Kind::Operator));
    let by_all =
        others.map(async |attacker| (attacker, attacker.call(endpoint.method(), &path, body.as_ref()).await));
    let kind = match endpoint.policy().scope {
        Scope::User => "A person's own routes",
        Scope::Operator => "Operators' routes",
        Scope::Runner => "Runners' routes",
        _ => "Everybody's routes",
    };
    for (attacker, answer) in join_all(by_all).await {
        let held = holds(attacker, endpoint, &answer, &question, victim);
        report.row(kind, endpoint.rpc, attacker.name.clone(), "aimed at the victim", held, said(&answer));
    }
}

pub(super) async fn every_route(victim: &mut Victim, attackers: &Attackers, report: &mut Report) {
    for endpoint in ENDPOINTS.iter().filter(|e| e.policy().scope != Scope::Tenant) {
        if LAST.contains(&endpoint.rpc) || endpoint.rpc == "Sessions.StartSignIn" {
            continue;
        }
        attack(endpoint, victim, attackers, report).await;
        victim.ask(endpoint.rpc, report).await;
    }
    sign_ins(victim, attackers, report).await;
}

/// Who asks for a link learns nothing of who is known, and the link that others tried works for its owner.
async fn sign_ins(victim: &mut Victim, attackers: &Attackers, report: &mut Report) {
    // Both are asked for equally often, so that both are limited at the same time.
    let known = text(&victim.world.member.get("/v1/me").await.unwrap(), "email");
    for attacker in &attackers.all {
        let mut answers = Vec::new();
        for email in [known.as_str(), "known-to-nobody@example.com"] {
            let answer = attacker.call(Method::POST, "/v1/sign-in", Some(&json!({ "email": email }))).await;
            let fields = answer.body.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            answers.push((answer.status, fields));
        }
        let held = answers[0] == answers[1];
        let told = format!("{} and {}", answers[0].0, answers[1].0);
        let how = "an address that is known beside one that is not";
        report.row("Everybody's routes", "Sessions.StartSignIn", attacker.name.clone(), how, held, told);
    }
    let held = victim.signs_in().await;
    report.row(
        "Everybody's routes",
        "Sessions.FinishSignIn",
        "victim",
        "the link that the others tried, in the browser that asked for it",
        held,
        "signed in",
    );
    victim.ask("Sessions.StartSignIn", report).await;
}

/// What is between services has no route: its gRPC path at the gateway leads nowhere.
pub(super) async fn internals(victim: &mut Victim, attackers: &Attackers, report: &mut Report) {
    let body = json!({ "org_id": victim.world.org });
    for policy in POLICIES.values().filter(|policy| policy.scope == Scope::Internal) {
        let sent = attackers.all.iter().map(async |attacker| {
            let request = attacker.request(Method::POST, &policy.path, Some(&body));
            (attacker, Client::send(request).await.unwrap())
        });
        for (attacker, answer) in join_all(sent).await {
            let held = matches!(answer.status, 401 | 404);
            let how = "its gRPC path at the gateway";
            let by = attacker.name.clone();
            report.row("The gateway, past its routes", short(policy), by, how, held, said(&answer));
        }
    }
    victim.ask("what is between services", report).await;
}

/// What GitHub posts, posted by somebody else: about the victim's installation, and of a key of the victim's.
pub(super) async fn webhooks(
    stack: &TestStack,
    victim: &mut Victim,
    attackers: &Attackers,
    report: &mut Report,
) {
    let gone = json!({ "action": "deleted", "installation": { "id": victim.installation } });
    let github = stack.github_client().unwrap();
    for signature in ["none", "wrong"] {
        let wish = json!({ "event": "installation", "payload": gone, "signature": signature });
        let answer = github.post("/_fake/deliver", &wish).await.unwrap();
        let held = answer["status"] == 401;
        let how = format!("the victim's installation is gone; signature: {signature}");
        let told = format!("{} {}", answer["status"], answer["answer"]["code"]);
        report.row("GitHub's routes", "SpritesInternal.ReceiveGithubWebhook", "nobody", how, held, told);
    }
    let leaked = json!([{ "token": victim.world.key_secret, "type": "nitejar_api_key", "url": "u", "source": "content" }]);
    for attacker in &attackers.all {
        for signed in [false, true] {
            let path = "/webhooks/github/secret-scanning";
            let mut request = attacker.request(Method::POST, path, Some(&leaked));
            if signed {
                request = request.header("github-public-key-identifier", "known-to-nobody");
                request = request
                    .header("github-public-key-signature", "MEUCIQD0000000000000000000000000000000000000");
            }
            let answer = Client::send(request).await.unwrap();
            let held = matches!(answer.status, 400 | 401 | 403);
            let how = if signed {
                "a key of the victim's, signed by nobody"
            } else {
                "a key of the victim's, unsigned"
            };
            let by = attacker.name.clone();
            report.row("GitHub's routes", "TenancyInternal.ReportLeaks", by, how, held, said(&answer));
        }
    }
    victim.ask("GitHub's routes", report).await;
}

/// Signing out, here and everywhere: it ends the attackers' own sessions, and none of the victim's.
pub(super) async fn sign_outs(victim: &mut Victim, attackers: &Attackers, report: &mut Report) {
    for rpc in LAST {
        let endpoint = ENDPOINTS.iter().find(|e| e.rpc == rpc).unwrap();
        attack(endpoint, victim, attackers, report).await;
        victim.ask(rpc, report).await;
    }
}

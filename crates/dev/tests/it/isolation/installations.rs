//! GitHub installations are bound once, to whom they belong, whatever number a browser brings back.

use nitejar_dev::client::{Answer, text};
use nitejar_dev::test_stack::TestStack;
use reqwest::Method;
use serde_json::{Value, json};

use super::attackers::Attackers;
use super::report::Report;
use super::said;
use super::victim::Victim;

const RPC: &str = "Integrations.FinishGithubInstall";

pub(super) async fn installations(
    stack: &TestStack,
    victim: &mut Victim,
    attackers: &Attackers,
    report: &mut Report,
) {
    let github = stack.github_client().unwrap();
    let nobody = stack.operator().unwrap().with_key("");
    let bound = victim.installation;
    let start = async || {
        let path = attackers.at("/integrations:startGithubInstall");
        let started = attackers.owner.post(&path, &json!({})).await.unwrap();
        text(&started, "url").split("state=").nth(1).unwrap().to_owned()
    };
    let install = async |user: &str| -> (u64, String) {
        let wish = json!({ "account": "evil", "repositories": ["evil/repo"], "user": user });
        let made = github.post("/_fake/installations", &wish).await.unwrap();
        (made["installation_id"].as_u64().unwrap(), text(&made, "code"))
    };
    let setup = |id: u64, code: &str, state: &str| {
        format!("/v1/github/setup?installation_id={id}&code={code}&state={state}")
    };
    // A code of the refusal where it says more than its status.
    let mut row = |by: &str, how: &str, expected: (u16, Option<&str>), answer: &Answer| {
        let code = expected.1.is_none_or(|code| answer.body["code"] == code);
        let held = answer.status == expected.0 && code;
        report.row("GitHub installations", RPC, by, how, held, said(answer));
    };
    // A link of the attackers' that the victim follows binds nothing, nor does it without anybody signed in.
    let (id, code) = install("victim").await;
    let lured = setup(id, &code, &start().await);
    let how = "a link of the attackers' for an installation of the victim's";
    for (by, client, status) in [("victim", &victim.world.owner, 409), ("nobody", &nobody, 401)] {
        let answer = client.call(Method::GET, &lured, None).await.unwrap();
        row(by, how, (status, None), &answer);
    }
    let finish = async |path: String| attackers.owner.call(Method::GET, &path, None).await.unwrap();
    // With a code of one's own, another's number: GitHub does not list it.
    let (_, code) = install("eve").await;
    let answer = finish(setup(bound, &code, &start().await)).await;
    row("owner", "the victim's number with a code of one's own", (403, Some("permission_denied")), &answer);
    // A person who really administers the victim's installation, but for another organization of ours.
    let integrations = victim.world.owner.get(&victim.at("/integrations")).await.unwrap();
    let found = |v: &Value| v["installation_id"].as_u64() == Some(bound);
    let integration = integrations["integrations"].as_array().unwrap().iter().find(|v| found(v)).unwrap();
    let (_, code) = install(&format!("{}-admin", text(integration, "account"))).await;
    let state = start().await;
    let answer = finish(setup(bound, &code, &state)).await;
    row("owner", "the victim's number, by who administers it", (409, Some("installation_bound")), &answer);
    // A state is good once.
    let (id, code) = install("eve").await;
    let answer = finish(setup(id, &code, &state)).await;
    row("owner", "a state that was used", (409, None), &answer);
    victim.ask("GitHub installations", report).await;
}

//! Whom they attack: an organization in which everything exists, its people, and what they have of their own.

use std::collections::BTreeMap;

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, connect_github};
use reqwest::Method;
use serde_json::{Value, json};

use super::report::Report;
use crate::digests::{Rows, differing};
use crate::people::{Browser, ask_link, sign_in};
use crate::world::{World, found_record};

/// What the victim has, and how it is recognized in an answer.
pub(super) struct Victim {
    pub(super) world: World,
    pub(super) slug: String,
    pub(super) email: String,
    /// A key of the owner's own, a session of theirs, and the link of a sign-in that they have begun.
    pub(super) own_key: String,
    pub(super) session: String,
    pub(super) link: String,
    begun: Browser,
    browser: Browser,
    program: Client,
    /// What GitHub is to bring back of an installation that they have begun, and the number of one that they have.
    pub(super) install_state: String,
    pub(super) installation: u64,
    rows: Rows,
    before: Vec<(String, Value)>,
    digests: BTreeMap<String, String>,
    marks: Vec<String>,
}

impl Victim {
    pub(super) async fn new(stack: &TestStack) -> Self {
        let operator = stack.operator().unwrap();
        let world = World::named(stack, "victim").await;
        let at = |rest: &str| format!("/v1/orgs/{}{rest}", world.org);
        let owner = &world.owner;
        fill(stack, &world).await;
        let me = owner.get("/v1/me").await.unwrap();
        let email = text(&me, "email");
        let key = json!({ "name": "victim's own" });
        let key = operator.post(&format!("/v1/operator/users/{}/keys", text(&me, "id")), &key).await.unwrap();
        let mut browser = Browser::new(stack);
        sign_in(stack, &mut browser, &email).await;
        let session = text(&browser.get("/v1/me/sessions").await.body["sessions"][0], "id");
        let mut begun = Browser::new(stack);
        let link = ask_link(stack, &mut begun, &email).await;
        let started = owner.post(&at("/integrations:startGithubInstall"), &json!({})).await.unwrap();
        let install_state = text(&started, "url").split("state=").nth(1).unwrap().to_owned();
        let installed = owner.get(&at("/integrations")).await.unwrap();
        let mut marks = vec!["victim".to_owned(), world.org.clone(), email.clone()];
        marks.extend(
            [
                &world.agent,
                &world.work_item,
                &world.job,
                &world.key,
                &world.invitation,
                &world.integration,
                &world.domain,
                &world.grant,
                &world.role,
                &world.export,
                &world.event,
                &world.member_id,
                &world.key_secret,
                &session,
            ]
            .map(Clone::clone),
        );
        let rows = Rows::of(&stack.databases, &world.org).await;
        let mut victim = Self {
            slug: text(&owner.get(&at("")).await.unwrap(), "slug"),
            email,
            own_key: text(&key["key"], "id"),
            session,
            link,
            begun,
            browser,
            program: operator.with_key(&world.key_secret),
            install_state,
            installation: installed["integrations"][0]["installation_id"].as_u64().unwrap(),
            rows,
            before: Vec::new(),
            digests: BTreeMap::new(),
            marks,
            world,
        };
        victim.look_anew().await;
        victim
    }

    pub(super) fn at(&self, rest: &str) -> String {
        format!("/v1/orgs/{}{rest}", self.world.org)
    }

    /// What the attackers know of it: ids, that open nothing.
    pub(super) fn ids(&self) -> String {
        self.marks[1..].join(" ")
    }

    /// Whether a question names a thing of the victim's, more than the organization itself.
    pub(super) fn named_in(&self, question: &str) -> bool {
        self.marks[2..].iter().any(|mark| question.contains(mark.as_str()))
    }

    /// What an answer shows of it that the question did not hold.
    pub(super) fn shown_in(&self, answer: &Value, question: &str) -> Option<&str> {
        let text = answer.to_string();
        let shown = |mark: &&String| text.contains(mark.as_str()) && !question.contains(mark.as_str());
        self.marks.iter().find(shown).map(String::as_str)
    }

    /// What it has just done itself is no harm. Nor is one harm told again with each attack that comes after it.
    pub(super) async fn look_anew(&mut self) {
        self.rows.quiet().await;
        // What was made goes on by itself until it ends.
        for (rest, list, ongoing) in [
            ("/jobs?page_size=500", "jobs", ["queued", "blocked", "running"].as_slice()),
            ("/exports", "exports", &["pending", "running"]),
            ("/sprites", "sprites", &["provisioning"]),
        ] {
            let ended = |found: &Value| {
                let all = found[list].as_array().unwrap();
                !all.iter().any(|one| ongoing.contains(&one["state"].as_str().unwrap_or_default()))
            };
            self.world.owner.until(&self.at(rest), 60, list, ended).await.unwrap();
        }
        self.rows.quiet().await;
        (self.before, self.digests) = self.state().await;
    }

    /// All that its owner can read, and all rows.
    async fn state(&mut self) -> (Vec<(String, Value)>, BTreeMap<String, String>) {
        let mut all = self.world.everything().await;
        let offer = "/ownership-offer";
        let found = self.world.owner.call(Method::GET, &self.at(offer), None).await.unwrap();
        all.push((offer.to_owned(), if found.status == 200 { found.body } else { Value::Null }));
        (all, self.rows.digests().await)
    }

    /// What is not as it was: parts of the API, tables.
    async fn changed(&mut self) -> Vec<String> {
        self.rows.quiet().await;
        let (after, digests) = self.state().await;
        let mut changed = differing(&self.digests, &digests);
        let pairs = self.before.iter().zip(&after).filter(|(before, after)| before != after);
        changed.extend(pairs.map(|((rest, _), _)| format!("GET …{rest}")));
        // Its people and programs come in as before.
        let org = self.at("");
        if self.browser.get(&org).await.status != 200 {
            changed.push("its session".into());
        }
        for (who, client) in [("its member", &self.world.member), ("its key", &self.program)] {
            if client.call(Method::GET, &org, None).await.unwrap().status != 200 {
                changed.push(who.into());
            }
        }
        changed
    }

    /// Asks the victim whether everything is as before, and writes the answer down as a row of its own.
    pub(super) async fn ask(&mut self, after: impl Into<String>, report: &mut Report) {
        let changed = self.changed().await;
        let answer = match changed.as_slice() {
            [] => "as before".to_owned(),
            _ => format!("changed: {}", changed.join(", ")),
        };
        report.row(
            "The victim afterwards",
            after,
            "victim",
            "reads everything again",
            changed.is_empty(),
            answer,
        );
        if !changed.is_empty() {
            self.look_anew().await;
        }
    }

    /// The link that others tried to use still signs its owner in, in the browser that asked for it.
    pub(super) async fn signs_in(&mut self) -> bool {
        let answer = self.begun.post("/v1/sign-in:finish", json!({ "token": self.link })).await;
        answer.status == 200
    }
}

/// A second of everything, so that each list has a second page; and what else can be taken away or shown.
async fn fill(stack: &TestStack, world: &World) {
    let operator = stack.operator().unwrap();
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", world.org);
    let owner = &world.owner;
    owner.put(&at("/secrets/TOKEN"), &json!({ "value": "victims-secret-value" })).await.unwrap();
    owner.put(&at("/secrets/VICTIMS"), &json!({ "value": "victims-other-value" })).await.unwrap();
    owner.post(&at("/keys"), &json!({ "name": "victim's second", "role": "viewer" })).await.unwrap();
    let invited = json!({ "email": "victims-guest@example.com", "role": "viewer" });
    owner.post(&at("/invitations"), &invited).await.unwrap();
    let role = json!({ "name": "victim's second", "permissions": ["jobs.read"] });
    owner.post(&at("/roles"), &role).await.unwrap();
    let config = json!({ "command": "echo victim", "secrets": ["TOKEN"] });
    let agent = json!({ "handle": "second", "config": config });
    let agent = text(&owner.post(&at("/agents"), &agent).await.unwrap(), "id");
    let item = json!({ "agent_id": agent, "title": "victim's second" });
    let item = owner.post(&at("/work-items"), &item).await.unwrap();
    crate::world::finished(owner, &world.org, item["job_ids"][0].as_str().unwrap()).await;
    let github = stack.github_client().unwrap();
    let repositories = [format!("victim-{}/repo", &world.org[20..])];
    connect_github(owner, &github, &world.org, &repositories).await.unwrap();
    let grant = json!({ "reason": "ticket 2: victim's trouble", "duration_minutes": 5 });
    operator.post(&format!("/v1/operator/orgs/{}/support-grants", world.org), &grant).await.unwrap();
    nitejar_dev::test_stack::organization(owner).await.unwrap();
    let offer = json!({ "user_id": world.member_id });
    owner.post(&at("/ownership-offer"), &offer).await.unwrap();
    // Its domain lets people in who ask.
    let domain = owner.get(&at(&format!("/domains/{}", world.domain))).await.unwrap();
    found_record(stack, &world.org, &text(&domain, "name")).await;
}

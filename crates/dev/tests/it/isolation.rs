//! The proof that no tenant reaches another's data. Every kind of attack is a row of a report; after each, the victim is
//! asked. `cargo xtask prove-isolation` runs this and says where the report is.

mod attacks;
mod database;
mod installations;
mod report;

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use serde_json::{Value, json};

use crate::world::{World, join};
use report::Report;

/// Who attacks: everybody that another organization may have, and who has none.
struct Attackers {
    /// Their own organization.
    org: String,
    owner: Client,
    all: Vec<(&'static str, Client)>,
}

impl Attackers {
    async fn new(stack: &TestStack) -> Self {
        let operator = stack.operator().unwrap();
        let (owner, _) = person(&operator, "attacker").await.unwrap();
        let org = organization(&owner).await.unwrap();
        let plan = json!({ "plan": "team" });
        operator.put(&format!("/v1/operator/orgs/{org}/subscription"), &plan).await.unwrap();
        let mut all = Vec::new();
        for role in ["admin", "member", "viewer"] {
            all.push((role, join(&operator, &owner, &org, role).await.0));
        }
        for (name, body) in [
            ("key:admin", json!({ "name": "k", "role": "admin" })),
            ("key:jobs.read", json!({ "name": "k", "role": "admin", "scopes": ["jobs.read"] })),
        ] {
            let key = owner.post(&format!("/v1/orgs/{org}/keys"), &body).await.unwrap();
            all.push((name, operator.with_key(&text(&key, "secret"))));
        }
        let (stranger, _) = person(&operator, "stranger").await.unwrap();
        all.push(("stranger", stranger));
        all.push(("operator", operator));
        all.push(("owner", owner.clone()));
        Self { org, owner, all }
    }
}

/// What the victim has, and how it is recognized in an answer.
struct Victim {
    world: World,
    before: Vec<Value>,
    marks: Vec<String>,
}

impl Victim {
    async fn new(stack: &TestStack) -> Self {
        let world = World::new(stack).await;
        let before = world.snapshot().await;
        let mut marks = vec!["victim".to_owned(), world.org.clone()];
        marks.extend(
            [
                &world.agent,
                &world.job,
                &world.key,
                &world.invitation,
                &world.integration,
                &world.domain,
                &world.grant,
            ]
            .map(Clone::clone),
        );
        Self { world, before, marks }
    }

    /// What the attackers know of it: ids, that open nothing.
    fn ids(&self) -> String {
        self.marks[1..].join(" ")
    }

    /// Whether an answer shows anything of it that the question did not hold.
    fn shown_in(&self, answer: &Value, question: &str) -> Option<&str> {
        let text = answer.to_string();
        let shown = |mark: &&String| text.contains(mark.as_str()) && !question.contains(mark.as_str());
        self.marks.iter().find(shown).map(String::as_str)
    }

    /// What it has just done itself is no harm.
    async fn look_anew(&mut self) {
        self.before = self.world.snapshot().await;
    }

    async fn is_unharmed(&self) -> bool {
        self.world.snapshot().await == self.before
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_leads_from_one_organization_to_another() {
    let stack = TestStack::start().await.unwrap();
    let mut victim = Victim::new(&stack).await;
    let attackers = Attackers::new(&stack).await;
    let mut report = Report::default();
    attacks::every_endpoint(&victim, &attackers, &mut report).await;
    attacks::runners(&stack, &victim, &mut report).await;
    attacks::filters(&victim, &attackers, &mut report).await;
    attacks::page_tokens(&victim, &attackers, &mut report).await;
    attacks::idempotency(&mut victim, &attackers, &mut report).await;
    attacks::streams(&victim, &attackers, &mut report).await;
    attacks::exports(&victim, &attackers, &mut report).await;
    attacks::caches(&victim, &attackers, &mut report).await;
    attacks::queue(&stack, &mut victim, &mut report).await;
    database::logins(&stack, &victim, &attackers, &mut report).await;
    let held = victim.is_unharmed().await;
    report.row(
        "the victim at the end",
        "everything it has",
        "owner",
        "reads it all again",
        held,
        "as it was before",
    );
    report.write();
    report.assert_all_hold();
    stack.stop().await.unwrap();
}

//! Who attacks: everybody that another organization may have, and who has none.

use std::collections::BTreeMap;

use nitejar_common::permission::{CATALOGUE, Role};
use nitejar_dev::client::{Answer, Client, text};
use nitejar_dev::test_stack::{TestStack, person};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::people::{Browser, sign_in};
use crate::world::{World, join};

/// What an attacker is, as far as it matters for what may be expected.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A person of the attackers' organization.
    Member,
    /// A key of it.
    Key,
    /// A person of no organization.
    Stranger,
    /// One of our operators, without a grant.
    Operator,
    /// The runner of one of its agents.
    Runner,
    /// Without a credential.
    Nobody,
}

impl Kind {
    /// Acts in the attackers' own organization.
    pub(super) fn has_org(self) -> bool {
        matches!(self, Self::Member | Self::Key)
    }

    pub(super) fn is_person(self) -> bool {
        matches!(self, Self::Member | Self::Stranger)
    }
}

pub(super) struct Attacker {
    pub(super) name: String,
    pub(super) kind: Kind,
    way: Way,
}

enum Way {
    Key(Client),
    Browser(Browser),
}

impl Attacker {
    fn key(name: impl Into<String>, kind: Kind, client: Client) -> Self {
        Self { name: name.into(), kind, way: Way::Key(client) }
    }

    pub(super) fn request(&self, method: Method, path: &str, body: Option<&Value>) -> RequestBuilder {
        match &self.way {
            Way::Browser(browser) => browser.request(method, path, body),
            Way::Key(client) => {
                let request = client.request(method, path);
                if let Some(body) = body { request.json(body) } else { request }
            }
        }
    }

    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        Client::send(self.request(method, path, body)).await.unwrap()
    }
}

pub(super) struct Attackers {
    /// Their own organization, in which everything exists once, too.
    pub(super) world: World,
    /// Who made the second owner's requests.
    pub(super) owner: Client,
    pub(super) owner_id: String,
    pub(super) all: Vec<Attacker>,
}

impl Attackers {
    pub(super) async fn new(stack: &TestStack) -> Self {
        let operator = stack.operator().unwrap();
        let world = World::named(stack, "attacker").await;
        let (org, owner) = (world.org.clone(), world.owner.clone());
        let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
        let me = owner.get("/v1/me").await.unwrap();
        let mut all = vec![Attacker::key("owner", Kind::Member, owner.clone())];
        for role in ["admin", "member", "viewer"] {
            let (client, _) = join(&operator, &owner, &org, role).await;
            all.push(Attacker::key(role, Kind::Member, client));
        }
        // A viewer to whom a custom role adds every permission that there is.
        let every: Vec<&str> = CATALOGUE.iter().map(|(permission, _)| *permission).collect();
        let role = json!({ "name": "Everything", "permissions": every });
        let role = text(&owner.post(&at("/roles"), &role).await.unwrap(), "id");
        let (client, id) = join(&operator, &owner, &org, "viewer").await;
        owner.put(&at(&format!("/members/{id}/roles")), &json!({ "role_ids": [role] })).await.unwrap();
        all.push(Attacker::key("custom role", Kind::Member, client));
        let mut browser = Browser::new(stack);
        sign_in(stack, &mut browser, &text(&me, "email")).await;
        all.push(Attacker { name: "owner's browser".into(), kind: Kind::Member, way: Way::Browser(browser) });
        // Keys: a whole role's, with a custom role, and one a kind of scope.
        let mut wishes = vec![
            ("key: admin".to_owned(), json!({ "name": "k", "role": "admin" })),
            ("key: custom role".to_owned(), json!({ "name": "k", "role": "viewer", "role_ids": [role] })),
        ];
        for (kind, scopes) in kinds_of_scopes() {
            wishes.push((format!("key: {kind}"), json!({ "name": kind, "role": "admin", "scopes": scopes })));
        }
        for (name, wish) in wishes {
            let key = owner.post(&at("/keys"), &wish).await.unwrap();
            all.push(Attacker::key(name, Kind::Key, operator.with_key(&text(&key, "secret"))));
        }
        all.push(Attacker::key("runner", Kind::Runner, operator.with_key(&world.runner)));
        let (stranger, _) = person(&operator, "stranger").await.unwrap();
        all.push(Attacker::key("stranger", Kind::Stranger, stranger));
        let mut browser = Browser::new(stack);
        sign_in(stack, &mut browser, "strangers-browser@example.com").await;
        let way = Way::Browser(browser);
        all.push(Attacker { name: "stranger's browser".into(), kind: Kind::Stranger, way });
        all.push(Attacker::key("nobody", Kind::Nobody, operator.with_key("")));
        all.push(Attacker::key("operator", Kind::Operator, operator));
        Self { world, owner, owner_id: text(&me, "id"), all }
    }

    pub(super) fn at(&self, rest: &str) -> String {
        format!("/v1/orgs/{}{rest}", self.world.org)
    }
}

/// `secrets` → what an admin's key may hold of it.
fn kinds_of_scopes() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (permission, _) in CATALOGUE.iter().filter(|(permission, _)| Role::Admin.allows(permission)) {
        kinds.entry(permission.split_once('.').unwrap().0).or_default().push(permission);
    }
    kinds
}

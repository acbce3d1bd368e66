//! Whatever people do at the same time, on whatever path: an organization keeps an owner, and what is known across
//! organizations is what each knows itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use reqwest::Method;
use serde_json::json;

use crate::dns::Dns;
use crate::people::{Browser, sign_in};
use crate::random::{picker, seed};
use crate::world::{join, verified_domain};

/// Owners, admins, and who may join by their address.
const PEOPLE: usize = 7;
const ROUNDS: usize = 6;
const STEPS: usize = 30;

struct Someone {
    client: Client,
    id: String,
    email: String,
}

struct Org {
    operator: Client,
    id: String,
    slug: String,
    people: Vec<Someone>,
}

impl Org {
    async fn new(stack: &TestStack, dns: Option<&mut Dns>, operator: &Client, round: usize) -> Self {
        let (owner, _) = person(operator, "p").await.unwrap();
        let id = organization(&owner).await.unwrap();
        let plan = json!({ "plan": "team" });
        operator.put(&format!("/v1/operator/orgs/{id}/subscription"), &plan).await.unwrap();
        let slug = text(&owner.get(&format!("/v1/orgs/{id}")).await.unwrap(), "slug");
        let domain = format!("round-{round}-{slug}.example.com");
        verified_domain(stack, dns, &owner, &id, &domain).await;
        let mut people = Vec::new();
        for i in 0..PEOPLE {
            let client = match i {
                0 => owner.clone(),
                1 => join(operator, &owner, &id, "owner").await.0,
                2..5 => join(operator, &owner, &id, "admin").await.0,
                _ => {
                    // By a mail's link they show that the address is theirs.
                    let mut browser = Browser::new(stack);
                    sign_in(stack, &mut browser, &format!("p{i}@{domain}")).await;
                    let key = browser.post("/v1/me/keys", json!({ "name": "k" })).await;
                    operator.with_key(&text(&key.body, "secret"))
                }
            };
            let me = client.get("/v1/me").await.unwrap();
            people.push(Someone { client, id: text(&me, "id"), email: text(&me, "email") });
        }
        Self { operator: operator.clone(), id, slug, people }
    }

    /// Takes a deletion and a suspension back. Gateways hear within a second who is what now.
    async fn go_on(&self, owner: &Someone) {
        let at = |rest: &str| format!("/v1/orgs/{}{rest}", self.id);
        let nothing = Some(json!({}));
        let mut said = Vec::new();
        for _ in 0..80 {
            let restored = owner.client.call(Method::POST, &at(":restore"), nothing.as_ref()).await.unwrap();
            let resume = format!("/v1/operator/orgs/{}:resume", self.id);
            let resumed = self.operator.call(Method::POST, &resume, nothing.as_ref()).await.unwrap();
            let change = owner.client.call(Method::PATCH, &at(""), nothing.as_ref()).await.unwrap();
            if change.status == 200 {
                return;
            }
            said = [restored, resumed, change].map(|answer| answer.body).to_vec();
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        panic!("{} does not go on: {said:?}", self.id);
    }

    /// One random deed of somebody; answers what was done. Refusals are as good as deeds; what must not be is an error of ours.
    async fn act(&self, pick: &mut impl FnMut(u64) -> u64) -> Option<&'static str> {
        let mut number = |below: usize| usize::try_from(pick(below as u64)).unwrap();
        let at = |rest: &str| format!("/v1/orgs/{}{rest}", self.id);
        let life = |verb: &str| format!("/v1/operator/orgs/{}:{verb}", self.id);
        let (me, other) = (&self.people[number(PEOPLE)], &self.people[number(PEOPLE)]);
        let role = ["owner", "admin", "viewer"][number(3)];
        let member = at(&format!("/members/{}", other.id));
        let own = at(&format!("/members/{}", me.id));
        let (what, client, method, path, body) = match number(24) {
            0 | 1 => ("left", &me.client, Method::POST, at(":leave"), Some(json!({}))),
            2 | 3 => ("removed", &me.client, Method::DELETE, member, None),
            4 => ("removed themselves", &me.client, Method::DELETE, own, None),
            5 | 6 => ("changed", &me.client, Method::PATCH, member, Some(json!({ "role": role }))),
            7 => ("changed themselves", &me.client, Method::PATCH, own, Some(json!({ "role": role }))),
            8..12 => {
                let to = json!({ "user_id": other.id });
                ("offered", &me.client, Method::POST, at("/ownership-offer"), Some(to))
            }
            12 => ("took over", &me.client, Method::POST, at("/ownership-offer:accept"), Some(json!({}))),
            13 => ("gave the offer up", &me.client, Method::DELETE, at("/ownership-offer"), None),
            14 => {
                let account = format!("/v1/me?email={}", me.email);
                ("deleted their account", &me.client, Method::DELETE, account, None)
            }
            15 => {
                let why = json!({ "reason": "unpaid" });
                ("suspended", &self.operator, Method::POST, life("suspend"), Some(why))
            }
            16 | 17 => ("resumed", &self.operator, Method::POST, life("resume"), Some(json!({}))),
            18 => ("deleted", &me.client, Method::DELETE, at(&format!("?slug={}", self.slug)), None),
            19 => ("restored", &me.client, Method::POST, at(":restore"), Some(json!({}))),
            20 => {
                // Those whom their domain lets in.
                let joiner = &self.people[5 + number(2)];
                let org = json!({ "org_id": self.id });
                ("joined", &joiner.client, Method::POST, "/v1/me/joins".into(), Some(org))
            }
            _ => {
                let wish = json!({ "email": other.email, "role": "owner" });
                ("invited", &me.client, Method::POST, at("/invitations"), Some(wish))
            }
        };
        let mut answer = client.call(method.clone(), &path, body.as_ref()).await.unwrap();
        if matches!(what, "invited" | "offered") {
            // Whoever can does it: mostly few can.
            for somebody in &self.people {
                if answer.status == 200 {
                    break;
                }
                answer = somebody.client.call(method.clone(), &path, body.as_ref()).await.unwrap();
            }
        }
        assert!(answer.status < 500, "{method} {path}: {} {}", answer.status, answer.body);
        // Who is invited comes, so that there is always somebody to act; and who is offered it takes over, or waits.
        let next = match what {
            "invited" if answer.status == 200 => {
                let token = json!({ "token": answer.body["token"] });
                Some((Method::POST, "/v1/invitations:accept".to_owned(), token))
            }
            "offered" if answer.status == 200 && number(4) > 0 => {
                Some((Method::POST, at("/ownership-offer:accept"), json!({})))
            }
            _ => None,
        };
        if let Some((method, path, body)) = next {
            let answer = other.client.call(method, &path, Some(&body)).await.unwrap();
            assert!(answer.status < 500, "{path}: {} {}", answer.status, answer.body);
            if what == "offered" && answer.status == 200 {
                return Some("took over");
            }
        }
        (answer.status == 200).then_some(what)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_keeps_an_owner_whatever_happens_at_the_same_time() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let mut dns = Dns::start(&stack);
    let seed = seed();
    let mut db = stack.database("tenancy").await.unwrap();
    let mut refused = 0;
    let mut done: BTreeMap<&str, usize> = BTreeMap::new();
    for round in 0..ROUNDS {
        let say = format!("NITEJAR_SEED={seed} round {round}");
        let all = Arc::new(Org::new(&stack, dns.as_mut(), &operator, round).await);
        let (org, people) = (&all.id, &all.people);
        // It begins with an offer that is taken up, in every second round while both owners leave.
        let offer = format!("/v1/orgs/{org}/ownership-offer");
        people[0].client.post(&offer, &json!({ "user_id": people[2].id })).await.unwrap();
        let post = async |who: usize, path: String| {
            people[who].client.call(Method::POST, &path, Some(&json!({}))).await.unwrap().status
        };
        let (accept, leave) = (format!("{offer}:accept"), format!("/v1/orgs/{org}:leave"));
        if round % 2 == 0 {
            assert_eq!(post(2, accept).await, 200);
            *done.entry("took over").or_default() += 1;
        } else {
            let (a, b, c) = tokio::join!(post(2, accept), post(0, leave.clone()), post(1, leave));
            assert!(a.max(b).max(c) < 500, "{say}: {a} {b} {c}");
        }
        let tasks = (0..4u64).map(|task| {
            let all = Arc::clone(&all);
            tokio::spawn(async move {
                let mut pick = picker(seed ^ (round as u64) << 32 ^ task << 48);
                let mut done = Vec::new();
                for _ in 0..STEPS {
                    done.extend(all.act(&mut pick).await);
                }
                done
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            for what in task.await.unwrap_or_else(|e| panic!("{say}: {e}")) {
                *done.entry(what).or_default() += 1;
            }
        }
        let number: i64 = sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
            .bind(org)
            .fetch_one(&mut db)
            .await
            .unwrap();
        let owners: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT count(*) FROM t_{number}.members WHERE role = 'owner'"
        )))
        .fetch_one(&mut db)
        .await
        .unwrap();
        let state: String = sqlx::query_scalar("SELECT state FROM control.orgs WHERE id = $1")
            .bind(org)
            .fetch_one(&mut db)
            .await
            .unwrap();
        // The last owner's account may end while all is to be deleted anyway; then nobody can restore it.
        assert!(owners >= 1 || state == "deleting", "{say}: nobody owns it any more, and it is {state}");
        let differ: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT coalesce(m.user_id, c.user_id) FROM t_{number}.members m \
             FULL JOIN (SELECT user_id, role FROM control.memberships WHERE org_id = $1) c USING (user_id) \
             WHERE m.role IS DISTINCT FROM c.role"
        )))
        .bind(org)
        .fetch_all(&mut db)
        .await
        .unwrap();
        assert!(differ.is_empty(), "{say}: {differ:?} differ");
        if owners == 0 {
            continue;
        }
        // Also while it is to be deleted, or is suspended: it is its owners' to restore.
        let left: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT user_id FROM t_{number}.members WHERE role = 'owner'"
        )))
        .fetch_all(&mut db)
        .await
        .unwrap();
        let owner = people.iter().find(|p| left.contains(&p.id)).expect("an owner is one of the people");
        all.go_on(owner).await;
        // The rule was put to the test: whoever is left and tries it alone is refused.
        if let [last] = left.as_slice()
            && let Some(last) = people.iter().find(|p| p.id == *last)
        {
            let path = format!("/v1/orgs/{org}");
            let own = format!("{path}/members/{}", last.id);
            for (method, path, body) in [
                (Method::POST, format!("{path}:leave"), Some(json!({}))),
                (Method::DELETE, own.clone(), None),
                (Method::PATCH, own, Some(json!({ "role": "admin" }))),
                (Method::DELETE, format!("/v1/me?email={}", last.email), None),
            ] {
                let answer = last.client.call(method, &path, body.as_ref()).await.unwrap();
                assert_eq!((answer.status, text(&answer.body, "code")), (409, "last_owner".into()), "{say}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "NITEJAR_SEED={seed}: no round left a single owner");
    for what in
        ["took over", "deleted their account", "suspended", "resumed", "deleted", "restored", "joined"]
    {
        // Who joins by their address needs a name server.
        let can = what != "joined" || dns.is_some();
        assert!(!can || done.contains_key(what), "NITEJAR_SEED={seed}: nobody {what}: {done:?}");
    }
    stack.stop().await.unwrap();
}

/// The rule refuses nobody without need, either: who leaves while another becomes an owner may leave.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_may_leave_while_another_is_made_one() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    for round in 0..12 {
        let (first, _) = person(&operator, "first").await.unwrap();
        let org = organization(&first).await.unwrap();
        let (second, _) = join(&operator, &first, &org, "owner").await;
        let (third, id) = join(&operator, &first, &org, "member").await;
        let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
        first.post(&at("/ownership-offer"), &json!({ "user_id": id })).await.unwrap();
        let (accept, leave, nothing) = (at("/ownership-offer:accept"), at(":leave"), json!({}));
        let (accepted, left) = tokio::join!(
            third.call(Method::POST, &accept, Some(&nothing)),
            second.call(Method::POST, &leave, Some(&nothing))
        );
        let (accepted, left) = (accepted.unwrap(), left.unwrap());
        assert_eq!(
            (accepted.status, left.status),
            (200, 200),
            "round {round}: {} {}",
            accepted.body,
            left.body
        );
    }
    stack.stop().await.unwrap();
}

//! Domains: shown to be one's own, and joined by. A name server of another's making says what the DNS says.

use nitejar_dev::client::{Answer, Client, text};
use nitejar_dev::test_stack::TestStack;
use reqwest::Method;
use serde_json::{Value, json};

use crate::dns::Dns;
use crate::people::{Browser, mail, sign_in};
use crate::world::{Org, join};

impl Org {
    async fn claim(&self, name: &str) -> Value {
        self.owner.post(&self.at("/domains"), &json!({ "name": name })).await.unwrap()
    }

    async fn verify(&self, domain: &Value) -> Answer {
        let path = self.at(&format!("/domains/{}:verify", text(domain, "id")));
        self.owner.call(Method::POST, &path, Some(&json!({}))).await.unwrap()
    }

    async fn set(&self, domain: &Value, wish: Value) {
        let path = self.at(&format!("/domains/{}", text(domain, "id")));
        self.owner.patch(&path, &wish).await.unwrap();
    }

    /// A verified domain, joined in that way as a member.
    async fn domain(&self, dns: &mut Dns, name: &str, joining: &str) -> Value {
        let domain = self.claim(name).await;
        publish(dns, &domain);
        assert_eq!(self.verify(&domain).await.status, 200);
        self.set(&domain, json!({ "joining": joining, "role": "member" })).await;
        domain
    }

    async fn role_of(&self, email: &str) -> Option<String> {
        let members = self.owner.all(&self.at("/members"), "members").await.unwrap();
        members.iter().find(|m| m["email"] == email).map(|m| text(m, "role"))
    }
}

fn publish(dns: &mut Dns, domain: &Value) {
    dns.add(&text(&domain["challenge"], "name"), &text(&domain["challenge"], "value"));
}

/// A name of this run's own.
fn name() -> String {
    format!("acme-{}.example.com", hex::encode(nitejar_common::rng::bytes::<4>()))
}

fn said(answer: &Answer) -> (u16, String) {
    (answer.status, text(&answer.body, "code"))
}

/// Signs in with that address; answers the browser.
async fn comes(stack: &TestStack, email: &str) -> Browser {
    let mut browser = Browser::new(stack);
    sign_in(stack, &mut browser, email).await;
    browser
}

/// Everything that domains are for; less, and false, without a name server.
pub(crate) async fn deeds(stack: &TestStack, owner: &Client, org: &str) -> bool {
    let org = Org { owner: owner.clone(), id: org.to_owned() };
    let name = name();
    let Some(mut dns) = Dns::start(stack) else {
        let domain = org.claim(&name).await;
        org.set(&domain, json!({ "joining": "suggested" })).await;
        owner.delete(&org.at(&format!("/domains/{}", text(&domain, "id")))).await.unwrap();
        return false;
    };
    let domain = org.domain(&mut dns, &name, "suggested").await;
    let mut joiner = comes(stack, &format!("joiner@{name}")).await;
    assert_eq!(joiner.post("/v1/me/joins", json!({ "org_id": org.id })).await.status, 200);
    owner.delete(&org.at(&format!("/domains/{}", text(&domain, "id")))).await.unwrap();
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_is_verified_by_its_record_and_nothing_else() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let Some(mut dns) = Dns::start(&stack) else { return };
    let org = Org::new(&operator).await;
    let shown = name().replace("acme", "bücher");
    let domain = org.claim(&format!(" {} ", shown.to_uppercase())).await;
    let ascii = text(&domain, "name");
    assert!(ascii.starts_with("xn--bcher-") && ascii.ends_with(".example.com"), "{domain}");
    assert_eq!((text(&domain, "unicode_name"), text(&domain, "state")), (shown, "pending".into()));
    let (record, value) = (text(&domain["challenge"], "name"), text(&domain["challenge"], "value"));
    assert_eq!(record, format!("_nitejar-challenge.{ascii}"));
    assert!(value.starts_with("nitejar-verification=") && value.len() > 50, "{value}");

    // None, another's, at another place, and a part of it.
    let missing = (409, "domain_record_missing".to_owned());
    for (name, record_text) in [
        ("nothing.example.com", "x"),
        (record.as_str(), "v=spf1 -all"),
        (record.as_str(), "nitejar-verification=00000000000000000000000000000000"),
        (ascii.as_str(), value.as_str()),
        ("_nitejar-challenge.example.com", value.as_str()),
        (record.as_str(), &value[..value.len() - 1]),
    ] {
        dns.add(name, record_text);
        let answer = org.verify(&domain).await;
        assert_eq!(said(&answer), missing, "{name} {record_text}");
        let detail = answer.body["detail"].as_str().unwrap_or_default().to_owned();
        assert!(detail.contains(&record) && detail.contains(&value), "{detail}");
    }
    // It is there, but nobody says so.
    publish(&mut dns, &domain);
    for fault in ["servfail", "refused", "silence"] {
        dns.fault(fault);
        let began = std::time::Instant::now();
        assert_eq!(said(&org.verify(&domain).await), (409, "domain_lookup_failed".into()), "{fault}");
        assert!(began.elapsed().as_secs() < 10, "{fault}");
    }
    assert_eq!(text(&org.owner.get(&org.at("/domains")).await.unwrap()["domains"][0], "state"), "pending");
    // Among many, over TCP; a long one beside it does no harm.
    dns.add(&record, &"x".repeat(900));
    dns.fault("truncate");
    let done = org.verify(&domain).await;
    assert_eq!((done.status, text(&done.body, "state")), (200, "verified".into()), "{}", done.body);
    // Looked for again it is there, or is missed; it stays verified either way.
    assert_eq!(org.verify(&domain).await.body["verified_at"], done.body["verified_at"]);
    dns.clear();
    assert_eq!(said(&org.verify(&domain).await), missing);
    assert_eq!(text(&org.owner.get(&org.at("/domains")).await.unwrap()["domains"][0], "state"), "verified");
    assert_eq!(org.events_come("domain.verified", 1).await.len(), 1);
    let path = org.at(&format!("/domains/{}", text(&domain, "id")));
    org.owner.delete(&path).await.unwrap();
    assert_eq!(org.owner.call(Method::GET, &path, None).await.unwrap().status, 404);
    assert_eq!(org.verify(&domain).await.status, 404);
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_nobodys_own_are_refused() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let org = Org::new(&operator).await;
    let path = org.at("/domains");
    let create = async |client: &Client, name: &str| {
        client.call(Method::POST, &path, Some(&json!({ "name": name }))).await.unwrap()
    };
    let long = format!("{}.com", ["a"; 5].map(|a| a.repeat(60)).join("."));
    let wrong = "аcme.com xn--cme-7cd.com gmail.com mail.yahoo.co.uk co.uk github.io 127.0.0.1 [::1] localhost acme.local \
                 acme.com. com";
    for name in wrong.split_whitespace().chain([long.as_str()]) {
        let refused = create(&org.owner, name).await;
        assert_eq!(said(&refused), (400, "invalid_argument".into()), "{name}");
        assert_eq!(refused.body["errors"][0]["pointer"], "/name", "{}", refused.body);
    }
    let (first, second) = (name(), name());
    assert_eq!(create(&org.owner, &first).await.status, 200);
    assert_eq!(said(&create(&org.owner, &first.to_uppercase()).await), (409, "already_exists".into()));
    // Twenty are enough, also when they come together.
    for i in 0..18 {
        assert_eq!(create(&org.owner, &format!("d{i}.{second}")).await.status, 200);
    }
    let (names, owner) = ([format!("x.{second}"), format!("y.{second}")], &org.owner);
    let (a, b) = tokio::join!(create(owner, &names[0]), create(owner, &names[1]));
    let mut both = [a.status, b.status];
    both.sort_unstable();
    assert_eq!(both, [200, 409]);
    // Members neither see nor change them.
    let (member, _) = join(&operator, &org.owner, &org.id, "member").await;
    assert_eq!(create(&member, &name()).await.body["permission"], "domains.write");
    assert_eq!(member.call(Method::GET, &path, None).await.unwrap().body["permission"], "domains.read");
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_is_one_organizations_until_it_gives_it_up_or_is_gone() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let Some(mut dns) = Dns::start(&stack) else { return };
    let (one, two) = (Org::new(&operator).await, Org::new(&operator).await);
    let name = name();
    let mut winners = Vec::new();
    for round in 0..4 {
        let (ours, theirs) = (one.claim(&name).await, two.claim(&name).await);
        publish(&mut dns, &ours);
        publish(&mut dns, &theirs);
        let (a, b) = tokio::join!(one.verify(&ours), two.verify(&theirs));
        let (won, lost, mut taken, theirs) = match a.status {
            200 => (&one, &two, b, theirs),
            _ => (&two, &one, a, ours),
        };
        for _ in 0..2 {
            assert_eq!(said(&taken), (409, "conflict".into()), "{}", taken.body);
            assert!(!taken.body.to_string().contains(&won.id), "whose it is: {}", taken.body);
            taken = lost.verify(&theirs).await;
        }
        winners.push(won.id.clone());
        let mine = won.owner.get(&won.at("/domains")).await.unwrap()["domains"][0].clone();
        if round == 3 {
            // A purge gives it up, too.
            let slug = text(&won.owner.get(&won.at("")).await.unwrap(), "slug");
            won.owner.delete(&won.at(&format!("?slug={slug}"))).await.unwrap();
            let mut db = stack.database("tenancy").await.unwrap();
            sqlx::query("UPDATE control.orgs SET purge_after = now() - interval '1 s' WHERE id = $1")
                .bind(&won.id)
                .execute(&mut db)
                .await
                .unwrap();
            let life = format!("/v1/operator/orgs/{}", won.id);
            operator.until(&life, 60, "the purge", |v| v["state"] == "purged").await.unwrap();
            assert_eq!(lost.verify(&theirs).await.status, 200);
            break;
        }
        won.owner.delete(&won.at(&format!("/domains/{}", text(&mine, "id")))).await.unwrap();
        assert_eq!(lost.verify(&theirs).await.status, 200, "given up is given up");
        lost.owner.delete(&lost.at(&format!("/domains/{}", text(&theirs, "id")))).await.unwrap();
        dns.clear();
    }
    assert_eq!(winners.len(), 4);
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_in_with_an_address_there_joins_by_itself() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let Some(mut dns) = Dns::start(&stack) else { return };
    let org = Org::new(&operator).await;
    let name = name();
    let email = |who: &str| format!("{who}@{name}");
    let domain = org.claim(&name).await;
    org.set(&domain, json!({ "joining": "automatic", "role": "member" })).await;
    comes(&stack, &email("early")).await;
    assert_eq!(org.role_of(&email("early")).await, None, "claimed is not verified");
    publish(&mut dns, &domain);
    assert_eq!(org.verify(&domain).await.status, 200);

    let mut ada = comes(&stack, &email("ada")).await;
    assert_eq!(org.role_of(&email("ada")).await.as_deref(), Some("member"));
    assert_eq!(ada.get(&org.at("")).await.status, 200, "at once");
    let joined = org.events_come("member.joined_by_domain", 1).await;
    let id = text(&ada.get("/v1/me").await.body, "id");
    assert_eq!((&joined[0]["actor_id"], &joined[0]["target_id"]), (&json!(id), &json!(id)));
    assert_eq!(joined[0]["details"]["domain"], name.as_str());
    // Exactly there, and what they are already they stay.
    comes(&stack, &format!("eve@sub.{name}")).await;
    assert_eq!(org.role_of(&format!("eve@sub.{name}")).await, None);
    org.owner.patch(&org.at(&format!("/members/{id}")), &json!({ "role": "owner" })).await.unwrap();
    comes(&stack, &email("ada")).await;
    assert_eq!(org.role_of(&email("ada")).await.as_deref(), Some("owner"));

    // Who is gone does not come back by signing in: neither who was removed, nor who left, nor who declined.
    org.owner.delete(&org.at(&format!("/members/{id}"))).await.unwrap();
    let mut ada = comes(&stack, &email("ada")).await;
    assert_eq!(org.role_of(&email("ada")).await, None);
    let refused = ada.post("/v1/me/joins", json!({ "org_id": org.id })).await;
    assert_eq!(said(&refused), (404, "not_found".into()), "removed by somebody else");
    let gone = format!("/v1/me?email={}", email("ada"));
    assert_eq!(ada.call(Method::DELETE, &gone, None).await.status, 200);
    assert!(mail(&stack, &email("ada"), 4).await.subject.contains("deleted"));
    let mut ada = comes(&stack, &email("ada")).await;
    assert_ne!(text(&ada.get("/v1/me").await.body, "id"), id, "another account");
    assert_eq!(org.role_of(&email("ada")).await, None);
    assert_eq!(ada.get("/v1/me/joinable-orgs").await.body["orgs"], json!([]));
    let mut leaver = comes(&stack, &email("leaver")).await;
    assert_eq!(leaver.post(&org.at(":leave"), json!({})).await.status, 200);
    let mut leaver = comes(&stack, &email("leaver")).await;
    assert_eq!(org.role_of(&email("leaver")).await, None);
    assert_eq!(leaver.get("/v1/me/joinable-orgs").await.body["orgs"][0]["org_id"], org.id.as_str());
    assert_eq!(leaver.post("/v1/me/joins", json!({ "org_id": org.id })).await.status, 200, "they may ask");
    // An invitation says more than the domain does.
    let invite = json!({ "email": email("grace"), "role": "admin" });
    let invited = org.owner.post(&org.at("/invitations"), &invite).await.unwrap();
    mail(&stack, &email("grace"), 1).await;
    let mut grace = comes(&stack, &email("grace")).await;
    assert_eq!(org.role_of(&email("grace")).await, None);
    let token = json!({ "token": invited["token"] });
    assert_eq!(grace.post("/v1/invitations:accept", token).await.status, 200);
    assert_eq!(org.role_of(&email("grace")).await.as_deref(), Some("admin"));

    // Owner, leaver, grace and one that is asked: of five seats one is left.
    org.owner
        .post(&org.at("/invitations"), &json!({ "email": "x@example.com", "role": "viewer" }))
        .await
        .unwrap();
    let people = [email("a"), email("b"), email("c")];
    let (a, b, c) =
        tokio::join!(comes(&stack, &people[0]), comes(&stack, &people[1]), comes(&stack, &people[2]));
    drop((a, b, c));
    let members = org.owner.all(&org.at("/members"), "members").await.unwrap();
    assert_eq!(members.len(), 4, "no seat is given twice: {members:?}");
    let plan = json!({ "plan": "team" });
    operator.put(&format!("/v1/operator/orgs/{}/subscription", org.id), &plan).await.unwrap();
    for who in &people {
        comes(&stack, who).await;
        assert_eq!(org.role_of(who).await.as_deref(), Some("member"));
    }
    // Nobody joins where life stands still, nor where it was turned off.
    let life = |what: &str| format!("/v1/operator/orgs/{}:{what}", org.id);
    operator.post(&life("suspend"), &json!({ "reason": "unpaid" })).await.unwrap();
    comes(&stack, &email("late")).await;
    operator.post(&life("resume"), &json!({})).await.unwrap();
    crate::lives::works(&org.owner, &org.id).await;
    assert_eq!(org.role_of(&email("late")).await, None);
    org.set(&domain, json!({ "joining": "manual" })).await;
    let mut late = comes(&stack, &email("late")).await;
    assert_eq!(org.role_of(&email("late")).await, None);
    assert_eq!(late.get("/v1/me/joinable-orgs").await.body["orgs"], json!([]));
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_is_offered_and_joined_when_asked() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let Some(mut dns) = Dns::start(&stack) else { return };
    let (org, other) = (Org::new(&operator).await, Org::new(&operator).await);
    let name = name();
    org.domain(&mut dns, &name, "suggested").await;
    let elsewhere = format!("other.{name}");
    other.domain(&mut dns, &elsewhere, "suggested").await;
    let mut ada = comes(&stack, &format!("ada@{name}")).await;
    let slug = text(&org.owner.get(&org.at("")).await.unwrap(), "slug");
    let offered =
        json!([{ "org_id": org.id, "slug": slug, "name": "Org", "domain": name, "role": "member" }]);
    assert_eq!(ada.get("/v1/me/joinable-orgs").await.body["orgs"], offered);
    assert_eq!(ada.get(&org.at("")).await.status, 404, "offered is not joined");
    let to = |org: &Org| json!({ "org_id": org.id });
    let none = json!({ "org_id": "org_01h2xcejqtf2nbrexx3vqjhp41" });
    let (theirs, nobodys) =
        (ada.post("/v1/me/joins", to(&other)).await, ada.post("/v1/me/joins", none).await);
    assert_eq!(said(&theirs), (404, "not_found".into()));
    assert_eq!(said(&nobodys), said(&theirs));
    // An invitation goes before.
    let invite = json!({ "email": format!("ada@{name}"), "role": "viewer" });
    let invited = org.owner.post(&org.at("/invitations"), &invite).await.unwrap();
    assert_eq!(ada.get("/v1/me/joinable-orgs").await.body["orgs"], json!([]));
    assert_eq!(said(&ada.post("/v1/me/joins", to(&org)).await), (409, "conflict".into()));
    let path = org.at(&format!("/invitations/{}", text(&invited["invitation"], "id")));
    org.owner.delete(&path).await.unwrap();

    let joined = ada.post("/v1/me/joins", to(&org)).await;
    assert_eq!((joined.status, &joined.body["member"]["role"]), (200, &json!("member")), "{}", joined.body);
    assert_eq!(said(&ada.post("/v1/me/joins", to(&org)).await), (409, "conflict".into()));
    assert_eq!(ada.get("/v1/me/joinable-orgs").await.body["orgs"], json!([]));
    // A key of the person's does as well, as with an invitation; an organization's is nobody.
    let user = json!({ "email": format!("bob@{name}"), "name": "Bob" });
    let id = text(&operator.post("/v1/operator/users", &user).await.unwrap(), "id");
    let path = format!("/v1/operator/users/{id}/keys");
    let key = operator.post(&path, &json!({ "name": "k" })).await.unwrap();
    let bob = operator.with_key(&text(&key, "secret"));
    let mut once = Vec::new();
    for _ in 0..2 {
        let request = bob.request(Method::POST, "/v1/me/joins").header("idempotency-key", "once");
        once.push(Client::send(request.json(&to(&org))).await.unwrap().body);
    }
    assert_eq!(text(&once[0]["member"], "role"), "member");
    assert_eq!(once[0], once[1]);
    let key = json!({ "name": "k", "role": "admin" });
    let key = org.owner.post(&org.at("/keys"), &key).await.unwrap();
    let program = operator.with_key(&text(&key, "secret"));
    let refused = program.call(Method::POST, "/v1/me/joins", Some(&to(&org))).await.unwrap();
    assert_eq!(said(&refused), (403, "permission_denied".into()));
    // No seat is given twice: owner, Ada and Bob have three of five.
    let (mut c, mut d, mut e) = (
        comes(&stack, &format!("c@{name}")).await,
        comes(&stack, &format!("d@{name}")).await,
        comes(&stack, &format!("e@{name}")).await,
    );
    let (c, d, e) = tokio::join!(
        c.post("/v1/me/joins", to(&org)),
        d.post("/v1/me/joins", to(&org)),
        e.post("/v1/me/joins", to(&org))
    );
    let mut all = [said(&c), said(&d), said(&e)];
    all.sort();
    assert_eq!(all, [(200, String::new()), (200, String::new()), (402, "seats_limit".into())]);
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_counts_for_as_long_as_its_record_stands() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let Some(mut dns) = Dns::start(&stack) else { return };
    let (first, next) = (Org::new(&operator).await, Org::new(&operator).await);
    let name = name();
    let email = |who: &str| format!("{who}@{name}");
    let mine = first.domain(&mut dns, &name, "automatic").await;
    let mut ada = comes(&stack, &email("ada")).await;
    assert_eq!(first.role_of(&email("ada")).await.as_deref(), Some("member"));
    let state = async || text(&first.owner.get(&first.at("/domains")).await.unwrap()["domains"][0], "state");
    let ask = json!({ "org_id": first.id });

    // For who is in already nobody is asked.
    let asked = dns.asked();
    comes(&stack, &email("ada")).await;
    assert_eq!(said(&ada.post("/v1/me/joins", ask.clone()).await), (409, "conflict".into()));
    assert_eq!(dns.asked(), asked);
    // Nobody knows: nobody joins, and nothing ends.
    dns.fault("servfail");
    let mut bob = comes(&stack, &email("bob")).await;
    assert_eq!(first.role_of(&email("bob")).await, None);
    assert_eq!(said(&bob.post("/v1/me/joins", ask.clone()).await), (409, "domain_lookup_failed".into()));
    assert_eq!(state().await, "verified");
    let theirs = next.claim(&name).await;
    assert_eq!(said(&next.verify(&theirs).await), (409, "domain_lookup_failed".into()));
    dns.fault("none");

    // It is gone: nobody joins, whoever is in stays, and the owners hear of it once.
    dns.clear();
    let missing = (409, "domain_record_missing".to_owned());
    comes(&stack, &email("bob")).await;
    assert_eq!(first.role_of(&email("bob")).await, None);
    for _ in 0..2 {
        assert_eq!(said(&bob.post("/v1/me/joins", ask.clone()).await), missing);
    }
    assert_eq!(first.role_of(&email("ada")).await.as_deref(), Some("member"));
    let shown = async || first.owner.get(&first.at("/domains")).await.unwrap()["domains"][0].clone();
    let now = shown().await;
    assert_eq!(text(&now, "state"), "verified");
    assert!(now["record_missing_since"].is_string(), "{now}");
    let missed = first.events_come("domain.record_missing", 1).await;
    assert_eq!(missed[0]["details"]["name"], name.as_str());
    let me = text(&first.owner.get("/v1/me").await.unwrap(), "email");
    let told = mail(&stack, &me, 1).await;
    let record = [text(&mine["challenge"], "name"), text(&mine["challenge"], "value")];
    assert!(record.iter().all(|part| told.text.contains(part)), "{}", told.text);
    // It is back, and everything is as it was.
    publish(&mut dns, &mine);
    comes(&stack, &email("bob")).await;
    assert_eq!(first.role_of(&email("bob")).await.as_deref(), Some("member"));
    assert_eq!(shown().await["record_missing_since"], Value::Null);
    assert_eq!(first.events("domain.record_missing").await.len(), 1);

    // The domain changes hands. Until the old record is gone it is the first one's; then whoever shows it has it.
    publish(&mut dns, &theirs);
    assert_eq!(said(&next.verify(&theirs).await), (409, "conflict".into()));
    assert_eq!(state().await, "verified");
    dns.clear();
    publish(&mut dns, &theirs);
    let taken = next.verify(&theirs).await;
    assert_eq!((taken.status, text(&taken.body, "state")), (200, "verified".into()), "{}", taken.body);
    assert_eq!(state().await, "pending");
    assert_eq!(first.events_come("domain.lapsed", 1).await.len(), 1);
    assert!(mail(&stack, &me, 2).await.subject.contains("no longer verified"));
    assert_eq!(first.events("domain.verified").await.len(), 1);
    next.set(&theirs, json!({ "joining": "automatic" })).await;
    comes(&stack, &email("eve")).await;
    assert_eq!(
        (first.role_of(&email("eve")).await, next.role_of(&email("eve")).await.is_some()),
        (None, true)
    );
    // What stood there before brings it back to nobody; a new record does, once the other's is gone.
    publish(&mut dns, &mine);
    assert_eq!(said(&first.verify(&mine).await), missing);
    let anew = shown().await;
    publish(&mut dns, &anew);
    assert_eq!(said(&first.verify(&anew).await), (409, "conflict".into()));
    // Also from an organization whose work stands still.
    let life = format!("/v1/operator/orgs/{}:suspend", next.id);
    operator.post(&life, &json!({ "reason": "unpaid" })).await.unwrap();
    dns.clear();
    publish(&mut dns, &anew);
    assert_eq!(first.verify(&anew).await.status, 200);
    stack.stop().await.unwrap();
}

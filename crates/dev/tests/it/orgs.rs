//! Organizations' names in paths, how many a person makes, and what they are called elsewhere.

use std::time::Duration;

use nitejar_dev::client::{Client, text};
use nitejar_dev::settings::Tweaks;
use nitejar_dev::test_stack::{TestStack, organization, person, test_tweaks};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection as _;

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_in_a_path_leads_members_on_and_looks_like_nothing_to_others() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let (stranger, _) = person(&operator, "stranger").await.unwrap();
    let (org, theirs) = (organization(&owner).await.unwrap(), organization(&stranger).await.unwrap());
    let first = text(&owner.get(&format!("/v1/orgs/{org}")).await.unwrap(), "slug");
    let second = format!("{first}-b");
    let new = json!({ "slug": second });
    owner.post(&format!("/v1/orgs/{org}:rename"), &new).await.unwrap();
    let key = json!({ "name": "k", "role": "viewer" });
    let program = owner.post(&format!("/v1/orgs/{org}/keys"), &key).await.unwrap();
    let program = operator.with_key(&text(&program, "secret"));
    let foreign = stranger.post(&format!("/v1/orgs/{theirs}/keys"), &key).await.unwrap();
    let foreign = operator.with_key(&text(&foreign, "secret"));

    for slug in [&first, &second] {
        for (method, rest, body) in [
            (Method::GET, "", None),
            (Method::HEAD, "/agents", None),
            (Method::GET, "/jobs?page_size=1&page_token=", None),
            (Method::POST, "/agents", Some(json!({ "handle": "worker" }))),
            (Method::POST, ":leave", Some(json!({}))),
            (Method::DELETE, "?slug=x", None),
        ] {
            for client in [&owner, &program] {
                let path = format!("/v1/orgs/{slug}{rest}");
                let answer = client.call(method.clone(), &path, body.as_ref()).await.unwrap();
                assert_eq!((answer.status, &answer.body), (307, &json!("")), "{method} {path}");
                assert_eq!(answer.headers["location"], format!("/v1/orgs/{org}{rest}"));
                assert!(answer.headers.contains_key("x-request-id"));
            }
        }
        // Whose it is, and whether there is one, is nobody else's business.
        let none = "no-such-slug-anywhere";
        for client in [&stranger, &foreign, &operator] {
            let said = async |slug: &str| {
                let answer =
                    client.call(Method::GET, &format!("/v1/orgs/{slug}/agents"), None).await.unwrap();
                let mut body = answer.body;
                body["request_id"] = Value::Null;
                (answer.status, body.to_string().replace(slug, "SLUG"))
            };
            let unknown = said(none).await;
            assert_eq!(unknown.0, 404);
            assert_eq!(said(slug).await, unknown);
        }
        let nobody = operator.with_key("");
        assert_eq!(nobody.call(Method::GET, &format!("/v1/orgs/{slug}"), None).await.unwrap().status, 401);
    }
    assert_eq!(
        owner.get(&format!("/v1/orgs/{org}/agents")).await.unwrap()["agents"],
        json!([]),
        "nothing was done"
    );

    // A client that follows gets what it wanted, whatever the method.
    nitejar_runtime::http::install_tls();
    let following = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::limited(2))
        .timeout(Duration::from_secs(30))
        .no_proxy()
        .build()
        .unwrap();
    let agents = format!("{}/v1/orgs/{first}/agents", stack.places.gateway_url());
    let made = following.post(&agents).bearer_auth(owner.key()).json(&json!({ "handle": "worker" }));
    let made = Client::send(made).await.unwrap();
    assert_eq!((made.status, text(&made.body, "handle")), (200, "worker".into()), "{}", made.body);
    let list = Client::send(following.get(&agents).bearer_auth(program.key())).await.unwrap();
    assert_eq!(list.body["agents"].as_array().unwrap().len(), 1);
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_makes_so_many_organizations_and_an_operator_more() {
    let stack = TestStack::start_with(Tweaks { orgs_per_person: 3, ..test_tweaks() }).await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, id) = person(&operator, "owner").await.unwrap();
    // At the same time, too: all have begun before one can go on.
    let mut db = stack.database("tenancy").await.unwrap();
    let mut held = db.begin().await.unwrap();
    sqlx::query("SELECT FROM control.users WHERE id = $1 FOR UPDATE")
        .bind(&id)
        .execute(&mut *held)
        .await
        .unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|i| {
            let owner = owner.clone();
            tokio::spawn(async move {
                let wish = json!({ "slug": format!("squat-{i}"), "name": "S" });
                let answer = owner.call(Method::POST, "/v1/orgs", Some(&wish)).await.unwrap();
                (answer.status, text(&answer.body, "code"))
            })
        })
        .collect();
    let mut look = stack.database("tenancy").await.unwrap();
    let mut waiting = 0i64;
    for _ in 0..400 {
        waiting = sqlx::query_scalar("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")
            .fetch_one(&mut look)
            .await
            .unwrap();
        if waiting >= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(waiting >= 2, "nobody waits for the person");
    held.rollback().await.unwrap();
    let mut made = 0;
    for task in tasks {
        match task.await.unwrap() {
            (200, _) => made += 1,
            refused => assert_eq!(refused, (409, "too_many_orgs".into())),
        }
    }
    assert_eq!(made, 3);
    let orgs = owner.all("/v1/orgs", "orgs").await.unwrap();
    assert_eq!(orgs.len(), 3);
    // What is there already is asked for again and is none more; a slug that is not made is not taken.
    let free: Vec<String> = (0..8)
        .map(|i| format!("squat-{i}"))
        .filter(|slug| orgs.iter().all(|org| text(org, "slug") != *slug))
        .collect();
    let path = format!("/v1/operator/users/{id}/orgs");
    let more = json!({ "slug": free[0], "name": "More", "external_id": "crm-4" });
    let more = operator.post(&path, &more).await.unwrap();
    assert_eq!((text(&more, "slug"), text(&more, "state")), (free[0].clone(), "active".into()));
    let org = owner.get(&format!("/v1/orgs/{}", text(&more, "org_id"))).await.unwrap();
    assert_eq!((text(&org, "my_role"), text(&org, "external_id")), ("owner".into(), "crm-4".into()));
    let log = format!("/v1/orgs/{}/audit-events?action=org.created", text(&more, "org_id"));
    let by_operator = |v: &Value| v["events"][0]["actor_kind"] == "operator";
    owner.until(&log, 20, "the event", by_operator).await.unwrap();
    let nobody = "/v1/operator/users/user_01h2xcejqtf2nbrexx3vqjhp41/orgs";
    let wish = json!({ "slug": free[1], "name": "N" });
    assert_eq!(operator.call(Method::POST, nobody, Some(&wish)).await.unwrap().status, 404);
    // Who gave one away makes another.
    let (heir, _) = person(&operator, "heir").await.unwrap();
    for org in &orgs[..2] {
        let (org, email) = (text(org, "id"), text(&heir.get("/v1/me").await.unwrap(), "email"));
        let wish = json!({ "email": email, "role": "owner" });
        let invited = owner.post(&format!("/v1/orgs/{org}/invitations"), &wish).await.unwrap();
        heir.post("/v1/invitations:accept", &json!({ "token": text(&invited, "token") })).await.unwrap();
        owner.patch(&format!("/v1/orgs/{org}/members/{id}"), &json!({ "role": "viewer" })).await.unwrap();
    }
    owner.post("/v1/orgs", &wish).await.unwrap();
    let wish = json!({ "slug": free[2], "name": "N" });
    let refused = owner.call(Method::POST, "/v1/orgs", Some(&wish)).await.unwrap();
    assert_eq!(text(&refused.body, "code"), "too_many_orgs");
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_is_created_with_an_external_id_and_found_by_it() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let mut made = Vec::new();
    for (slug, external) in [("one", "crm-1"), ("two", "crm-2"), ("three", ""), ("four", "crm-1")] {
        let wish = json!({ "slug": format!("{slug}-external"), "name": slug, "external_id": external });
        let org = owner.post("/v1/orgs", &wish).await.unwrap();
        assert_eq!(org["external_id"], external);
        let read = owner.get(&format!("/v1/orgs/{}", text(&org, "id"))).await.unwrap();
        assert_eq!((&read["external_id"], &read["etag"]), (&json!(external), &json!("v1")));
        made.push(text(&org, "id"));
    }
    let found = async |query: &str| -> Vec<String> {
        let list = owner.all(&format!("/v1/orgs?page_size=1{query}"), "orgs").await.unwrap();
        list.iter().map(|org| text(org, "id")).collect()
    };
    assert_eq!(found("&external_id=crm-1").await, [made[0].clone(), made[3].clone()]);
    assert_eq!(found("&external_id=crm-2").await, [made[1].clone()]);
    assert!(found("&external_id=crm-3").await.is_empty());
    assert_eq!(found("").await.len(), 4);
    for wrong in ["a b", "\u{e4}", &"x".repeat(101)] {
        let wish = json!({ "slug": "five-external", "name": "five", "external_id": wrong });
        let answer = owner.call(Method::POST, "/v1/orgs", Some(&wish)).await.unwrap();
        assert_eq!(answer.status, 400, "{wrong}");
    }
    stack.stop().await.unwrap();
}

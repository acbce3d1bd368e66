//! Invitations: written, mailed, imported as a table, answered, and ended with the right of who gave them.

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use reqwest::Method;
use serde_json::{Value, json};

use crate::custom_roles::Org;
use crate::members::code;
use crate::people::{Browser, mail, sign_in};
use crate::world::join;

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_mailed_sent_again_declined_and_good_for_one() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    let (guest, _) = person(&operator, "guest").await.unwrap();
    let email = text(&guest.get("/v1/me").await.unwrap(), "email");
    let wish = json!({ "email": email.to_uppercase(), "role": "member" });
    let invited = owner.post(&at("/invitations"), &wish).await.unwrap();
    let first = mail(&stack, &email, 1).await;
    let token = text(&invited, "token");
    assert!(
        first.text.contains(&format!("/join#token={token}")) && first.subject.contains("Org"),
        "{first:?}"
    );
    assert_eq!(code(&owner, Method::POST, &at("/invitations"), wish).await, (409, "already_exists".into()));
    // Sent again, the one before leads nowhere.
    let path = at(&format!("/invitations/{}:resend", text(&invited["invitation"], "id")));
    let again = owner.post(&path, &json!({})).await.unwrap();
    assert!(mail(&stack, &email, 2).await.text.contains(&text(&again, "token")));
    let accept = |token: &str| json!({ "token": token });
    let found = code(&guest, Method::POST, "/v1/invitations:accept", accept(&token)).await;
    assert_eq!(found, (404, "not_found".into()));
    // For another address it is none, whoever holds the token.
    let (thief, _) = person(&operator, "thief").await.unwrap();
    for verb in ["accept", "decline"] {
        let stolen =
            code(&thief, Method::POST, &format!("/v1/invitations:{verb}"), accept(&text(&again, "token")))
                .await;
        assert_eq!(stolen, (404, "not_found".into()), "{verb}");
    }
    guest.post("/v1/invitations:decline", &accept(&text(&again, "token"))).await.unwrap();
    guest.post("/v1/invitations:decline", &accept(&text(&again, "token"))).await.unwrap();
    let used = code(&guest, Method::POST, "/v1/invitations:accept", accept(&text(&again, "token"))).await;
    assert_eq!(used, (409, "invitation_unusable".into()));
    assert_eq!(code(&owner, Method::POST, &path, json!({})).await, (409, "conflict".into()));
    // Ten mails are enough.
    let wish = json!({ "email": "many@example.com", "role": "viewer" });
    let invited = owner.post(&at("/invitations"), &wish).await.unwrap();
    let path = at(&format!("/invitations/{}:resend", text(&invited["invitation"], "id")));
    for _ in 0..9 {
        owner.post(&path, &json!({})).await.unwrap();
    }
    assert_eq!(code(&owner, Method::POST, &path, json!({})).await, (409, "conflict".into()));
    // Nor does a revoked one, which frees its seat, make room for as many mails as one likes: five seats are good for 40 a day.
    let kept = json!({ "email": "kept@example.com", "role": "viewer" });
    let kept = owner.post(&at("/invitations"), &kept).await.unwrap();
    let mut sent = 13;
    let refused = loop {
        let wish = json!({ "email": format!("stranger{sent}@example.com"), "role": "viewer" });
        let answer = owner.call(Method::POST, &at("/invitations"), Some(&wish)).await.unwrap();
        if answer.status != 200 {
            break answer;
        }
        sent += 1;
        owner.delete(&at(&format!("/invitations/{}", text(&answer.body["invitation"], "id")))).await.unwrap();
        assert!(sent <= 40, "more mails than there should be");
    };
    assert_eq!((sent, refused.status, text(&refused.body, "code")), (40, 409, "conflict".into()));
    let path = at(&format!("/invitations/{}:resend", text(&kept["invitation"], "id")));
    let again = owner.call(Method::POST, &path, Some(&json!({}))).await.unwrap();
    assert_eq!(again.status, 409);
    assert!(text(&again.body, "detail").contains("sent 40 invitations"), "{}", again.body);
    let table = json!({ "csv": "email\none.more@example.com\n" });
    let done = owner.post(&at("/invitations:import"), &table).await.unwrap();
    assert_eq!(done["rows"][0]["outcome"], "invited_too_often");
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_invites_whom_it_can_and_says_what_is_wrong_with_the_others() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    let plan = |plan: &str| json!({ "plan": plan });
    let subscription = format!("/v1/operator/orgs/{org}/subscription");
    operator.put(&subscription, &plan("team")).await.unwrap();
    let (admin, _) = join(&operator, &owner, &org, "admin").await;
    operator.put(&subscription, &plan("free")).await.unwrap();
    let mine = text(&admin.get("/v1/me").await.unwrap(), "email");
    owner
        .post(&at("/invitations"), &json!({ "email": "asked@example.com", "role": "viewer" }))
        .await
        .unwrap();
    let csv = format!(
        "Name;x,EMAIL,Role\r\nAda,ada@example.com,Viewer\r\n\"L, B\",\"bob@example.com\",\r\nMe,{mine},\r\n\
         Asked,asked@example.com,\r\nAda,ADA@example.com,\r\nBoss,boss@example.com,owner\r\n\
         Odd,odd@example.com,king\r\nNone,,\r\nOver,over@example.com,\r\nDots,a..b@example.com,\r\nUmlaut,\u{e4}@example.com,\r\n"
    );
    let done = admin.post(&at("/invitations:import"), &json!({ "csv": csv })).await.unwrap();
    let said: Vec<(i64, String, String)> = done["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["line"].as_i64().unwrap(), text(r, "role"), text(r, "outcome")))
        .collect();
    let row = |line: i64, role: &str, outcome: &str| (line, role.to_owned(), outcome.to_owned());
    // Two members and one invitation leave two of five seats.
    assert_eq!(
        said,
        [
            row(2, "viewer", "invited"),
            row(3, "member", "invited"),
            row(4, "member", "already_member"),
            row(5, "member", "already_invited"),
            row(6, "", "repeated"),
            row(7, "owner", "not_permitted"),
            row(8, "", "invalid"),
            row(9, "", "invalid"),
            row(10, "member", "no_seat"),
            row(11, "", "invalid"),
            row(12, "", "invalid"),
        ],
        "{done}"
    );
    assert_eq!(done["invited"], 2);
    assert!(mail(&stack, "ada@example.com", 1).await.text.contains("as viewer"));
    let pending = owner.all(&at("/invitations"), "invitations").await.unwrap();
    assert_eq!(pending.len(), 3);
    let full = json!({ "email": "more@example.com", "role": "viewer" });
    assert_eq!(code(&owner, Method::POST, &at("/invitations"), full).await, (402, "seats_limit".into()));
    let many = "email\n".to_owned() + &"a@b.cd\n".repeat(501);
    for wrong in ["", "name\nada@example.com\n", many.as_str()] {
        let refused = code(&owner, Method::POST, &at("/invitations:import"), json!({ "csv": wrong })).await;
        assert_eq!(refused, (400, "invalid_argument".into()), "{}", &wrong[..wrong.len().min(20)]);
    }
    assert_eq!(owner.all(&at("/invitations"), "invitations").await.unwrap().len(), 3);
    // Found by a part of the name or address, whatever its case, and by role.
    operator.put(&subscription, &plan("team")).await.unwrap();
    let email = "eclair@example.com";
    let guest =
        operator.post("/v1/operator/users", &json!({ "email": email, "name": "\u{c9}CLAIR" })).await.unwrap();
    let keys = format!("/v1/operator/users/{}/keys", text(&guest, "id"));
    let guest =
        operator.with_key(&text(&operator.post(&keys, &json!({ "name": "k" })).await.unwrap(), "secret"));
    let invited =
        owner.post(&at("/invitations"), &json!({ "email": email, "role": "viewer" })).await.unwrap();
    let token = json!({ "token": invited["token"] });
    guest.post("/v1/invitations:accept", &token).await.unwrap();
    for (query, found) in [
        ("query=ADMIN", 1),
        ("query=%C3%A9clair", 1),
        ("query=example.com", 3),
        ("role=owner", 1),
        ("query=%25", 0),
        ("query=nobody", 0),
    ] {
        let list = owner.all(&at(&format!("/members?{query}")), "members").await.unwrap();
        assert_eq!(list.len(), found, "{query}: {list:?}");
    }
    stack.stop().await.unwrap();
}

/// The number of an organization's schema.
async fn schema(db: &mut sqlx::PgConnection, org: &str) -> String {
    let number: i64 = sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
        .bind(org)
        .fetch_one(db)
        .await
        .unwrap();
    format!("t_{number}")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_too_long_expires_is_seen_and_can_be_sent_again() {
    let stack = TestStack::start().await.unwrap();
    let Org { operator, owner, id: org } = Org::new(&stack, "team").await;
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    let (guest, _) = person(&operator, "guest").await.unwrap();
    let email = text(&guest.get("/v1/me").await.unwrap(), "email");
    let invite = async |email: &str| {
        owner.post(&at("/invitations"), &json!({ "email": email, "role": "viewer" })).await.unwrap()
    };
    let late = invite(&email).await;
    let (id, token) = (text(&late["invitation"], "id"), json!({ "token": text(&late, "token") }));
    invite("waits@example.com").await;
    let revoked = text(&invite("revoked@example.com").await["invitation"], "id");
    owner.delete(&at(&format!("/invitations/{revoked}"))).await.unwrap();
    let (heir, heir_id) = join(&operator, &owner, &org, "viewer").await;
    let mut db = stack.database("tenancy").await.unwrap();
    let schema = schema(&mut db, &org).await;
    let mut pass = async |what: &str| {
        let sql = format!("UPDATE {schema}.{what}");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
    };
    pass(&format!("invitations SET expires_at = now() - interval '1 second' WHERE id = '{id}'")).await;

    let seen = async |query: &str| -> Vec<(String, String)> {
        let list = owner.all(&at(&format!("/invitations?page_size=1{query}")), "invitations").await.unwrap();
        list.iter().map(|i| (text(i, "email"), text(i, "state"))).collect()
    };
    let pair = |email: &str, state: &str| (email.to_owned(), state.to_owned());
    let (expired, waits) = (pair(&email, "expired"), pair("waits@example.com", "pending"));
    assert_eq!(seen("").await, [expired.clone(), waits.clone()]);
    assert_eq!(seen("&state=expired").await, [expired]);
    assert_eq!(seen("&state=pending").await, [waits]);
    assert_eq!(seen("&state=revoked").await, [pair("revoked@example.com", "revoked")]);
    assert_eq!(seen("&state=accepted").await.len(), 1);
    assert!(seen("&state=declined").await.is_empty());
    assert_eq!(code(&owner, Method::GET, &at("/invitations?state=lost"), Value::Null).await.0, 400);
    for verb in ["accept", "decline"] {
        let answer =
            guest.call(Method::POST, &format!("/v1/invitations:{verb}"), Some(&token)).await.unwrap();
        assert_eq!((answer.status, text(&answer.body, "code")), (409, "invitation_unusable".into()));
        assert!(text(&answer.body, "detail").contains("has expired"), "{}", answer.body);
    }
    // Sent again it waits again; what was sent before leads nowhere.
    let again = owner.post(&at(&format!("/invitations/{id}:resend")), &json!({})).await.unwrap();
    assert_eq!(again["invitation"]["state"], "pending");
    let accept = "/v1/invitations:accept";
    assert_eq!(code(&guest, Method::POST, accept, token).await, (404, "not_found".into()));
    guest.post(accept, &json!({ "token": text(&again, "token") })).await.unwrap();
    assert_eq!(seen("&state=accepted").await.len(), 2);

    // An offer that was not answered in time is none.
    let (offer, take) = (at("/ownership-offer"), at("/ownership-offer:accept"));
    owner.post(&offer, &json!({ "user_id": heir_id })).await.unwrap();
    pass("ownership_offer SET expires_at = now() - interval '1 second'").await;
    assert_eq!(code(&heir, Method::POST, &take, json!({})).await, (404, "not_found".into()));
    assert_eq!(code(&heir, Method::GET, &offer, Value::Null).await, (404, "not_found".into()));
    owner.post(&offer, &json!({ "user_id": heir_id })).await.unwrap();
    heir.post(&take, &json!({})).await.unwrap();
    stack.stop().await.unwrap();
}

/// An invitation hands on what its giver may give when it is accepted, not what they once could.
#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_does_not_outlive_the_right_of_who_gave_it() {
    let stack = TestStack::start().await.unwrap();
    let Org { operator, owner, id: org } = Org::new(&stack, "team").await;
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    let (second, second_id) = join(&operator, &owner, &org, "owner").await;
    let (admin, admin_id) = join(&operator, &owner, &org, "admin").await;
    let (gone, gone_id) = join(&operator, &owner, &org, "admin").await;
    let key = owner.post(&at("/keys"), &json!({ "name": "k", "role": "admin" })).await.unwrap();
    let program = operator.with_key(&text(&key, "secret"));
    let role = json!({ "name": "Auditors", "permissions": ["audit.read"] });
    let role = text(&owner.post(&at("/roles"), &role).await.unwrap(), "id");
    let invite = async |by: &Client, given: &str, role_ids: Value| {
        let (guest, _) = person(&operator, "guest").await.unwrap();
        let email = text(&guest.get("/v1/me").await.unwrap(), "email");
        let wish = json!({ "email": email, "role": given, "role_ids": role_ids });
        let invited = by.post(&at("/invitations"), &wish).await.unwrap();
        (guest, json!({ "token": invited["token"] }), text(&invited["invitation"], "id"))
    };
    let accept = "/v1/invitations:accept";
    let of_demoted = invite(&second, "owner", json!([])).await;
    let lesser = invite(&second, "member", json!([])).await;
    let of_removed = invite(&gone, "admin", json!([])).await;
    let of_older_times = invite(&gone, "viewer", json!([])).await;
    let of_changed_role = invite(&admin, "viewer", json!([role])).await;
    let of_admin = invite(&admin, "viewer", json!([])).await;
    let of_key = invite(&program, "admin", json!([])).await;
    let good_key = invite(&program, "viewer", json!([])).await;
    let rotated = owner.post(&at("/keys"), &json!({ "name": "r", "role": "admin" })).await.unwrap();
    let of_rotated = invite(&operator.with_key(&text(&rotated, "secret")), "admin", json!([])).await;
    let rotated = at(&format!("/keys/{}", text(&rotated["key"], "id")));
    owner.post(&format!("{rotated}:rotate"), &json!({})).await.unwrap();
    owner.delete(&rotated).await.unwrap();
    let csv = json!({ "csv": "email\ntable@example.com" });
    admin.post(&at("/invitations:import"), &csv).await.unwrap();
    let mut table = Browser::new(&stack);
    sign_in(&stack, &mut table, "table@example.com").await;
    mail(&stack, "table@example.com", 2).await;
    let mails = stack.mailbox.of("table@example.com");
    let link = mails.iter().find_map(|m| m.text.split("/join#token=").nth(1)).unwrap();
    let of_table = json!({ "token": link.split_whitespace().next().unwrap() });

    good_key.0.post(accept, &good_key.1).await.unwrap();
    owner.patch(&at(&format!("/members/{second_id}")), &json!({ "role": "admin" })).await.unwrap();
    owner.delete(&at(&format!("/members/{gone_id}"))).await.unwrap();
    owner.delete(&at(&format!("/keys/{}", text(&key["key"], "id")))).await.unwrap();
    let more = json!({ "permissions": ["audit.read", "billing.read"] });
    owner.patch(&at(&format!("/roles/{role}")), &more).await.unwrap();
    for (guest, token, _) in [&of_demoted, &of_removed, &of_changed_role, &of_key] {
        let refused = guest.call(Method::POST, accept, Some(token)).await.unwrap();
        assert_eq!((refused.status, text(&refused.body, "code")), (409, "invitation_unusable".into()));
        assert!(text(&refused.body, "detail").contains("Ask to be invited again"), "{}", refused.body);
    }
    // What they may still give is still given.
    lesser.0.post(accept, &lesser.1).await.unwrap();
    of_admin.0.post(accept, &of_admin.1).await.unwrap();
    of_rotated.0.post(accept, &of_rotated.1).await.unwrap();
    // Who sends it again gives it.
    let again = owner.post(&at(&format!("/invitations/{}:resend", of_demoted.2)), &json!({})).await.unwrap();
    let joined = of_demoted.0.post(accept, &json!({ "token": again["token"] })).await.unwrap();
    assert_eq!(joined["member"]["role"], "owner");
    // Who may invite nobody any more has invited nobody; of before that was noted, an invitation stays good.
    owner.patch(&at(&format!("/members/{admin_id}")), &json!({ "role": "member" })).await.unwrap();
    let refused = table.post(accept, of_table).await;
    assert_eq!((refused.status, text(&refused.body, "code")), (409, "invitation_unusable".into()));
    let mut db = stack.database("tenancy").await.unwrap();
    let schema = schema(&mut db, &org).await;
    let sql = format!("UPDATE {schema}.invitations SET invited_by = '' WHERE id = $1");
    sqlx::query(sqlx::AssertSqlSafe(sql)).bind(&of_older_times.2).execute(&mut db).await.unwrap();
    of_older_times.0.post(accept, &of_older_times.1).await.unwrap();
    stack.stop().await.unwrap();
}

/// Who was a member by an invitation is told that it is used up; whoever else has its token is told nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_brings_nobody_back() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    let (guest, guest_id) = person(&operator, "guest").await.unwrap();
    let (stranger, _) = person(&operator, "stranger").await.unwrap();
    let email = text(&guest.get("/v1/me").await.unwrap(), "email");
    let invited =
        owner.post(&at("/invitations"), &json!({ "email": email, "role": "viewer" })).await.unwrap();
    let token = json!({ "token": invited["token"] });
    let accept = "/v1/invitations:accept";
    let joined = guest.post(accept, &token).await.unwrap();
    let again = guest.post(accept, &token).await.unwrap();
    assert_eq!(again["member"]["user_id"], joined["member"]["user_id"], "twice is once");
    owner.delete(&at(&format!("/members/{guest_id}"))).await.unwrap();
    for verb in ["accept", "decline"] {
        let path = format!("/v1/invitations:{verb}");
        let used = guest.call(Method::POST, &path, Some(&token)).await.unwrap();
        assert_eq!((used.status, text(&used.body, "code")), (409, "invitation_unusable".into()), "{verb}");
        assert!(text(&used.body, "detail").contains("accepted already"), "{}", used.body);
        let unknown = code(&stranger, Method::POST, &path, token.clone()).await;
        assert_eq!(unknown, (404, "not_found".into()), "{verb}");
        let wrong = code(&guest, Method::POST, &path, json!({ "token": "nji_nobodys-token" })).await;
        assert_eq!(wrong, (404, "not_found".into()), "{verb}");
    }
    stack.stop().await.unwrap();
}

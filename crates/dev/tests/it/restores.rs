//! What a backup meets when it comes back: another one's interrupted restore, people who are gone, a newer master key.

use nitejar_common::clock::SystemClock;
use nitejar_common::id::OrgId;
use nitejar_common::secret::Secret;
use nitejar_dev::client::text;
use nitejar_dev::test_stack::{TestStack, organization, person, test_tweaks};
use reqwest::Method;
use serde_json::json;

use crate::archives::{Tool, purge};
use crate::world::{World, join};

fn new_org() -> (String, String) {
    let id = OrgId::new(&SystemClock).to_string();
    let slug = format!("copy-{}", &id[20..]);
    (id, slug)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_elses_backup_ends_a_restore_that_was_interrupted() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let tool = Tool::new(&stack);
    let (mine, victim) = (World::new(&stack).await, World::new(&stack).await);
    tool.must(&["backup", &mine.org, "mine"]).await;
    tool.must(&["backup", &victim.org, "theirs"]).await;
    let at = format!("/v1/orgs/{}", victim.org);
    let slug = text(&victim.owner.get(&at).await.unwrap(), "slug");
    let life = |verb: &str| format!("/v1/operator/orgs/{}{verb}", victim.org);
    // The words of a restore are not enough, and an operator does not even get to say them.
    let words = json!({ "reason": "It is being restored from a backup." });
    let said = operator.call(Method::POST, &life(":suspend"), Some(&words)).await.unwrap();
    assert_eq!((said.status, &said.body["code"]), (400, &json!("invalid_argument")), "{}", said.body);
    // Killed in the middle: the directory knows that it has begun.
    let mut db = stack.database("tenancy").await.unwrap();
    sqlx::query(
        "UPDATE control.orgs SET state = 'suspended', suspended_at = now(), state_version = state_version + 1, \
         suspended_because = 'It is being restored from a backup.', restoring = '\\x01' WHERE id = $1",
    )
    .bind(&victim.org)
    .execute(&mut db)
    .await
    .unwrap();
    let seen = async || {
        let mut seen = Vec::new();
        for list in ["", "/members", "/secrets", "/keys"] {
            seen.push(victim.owner.get(&format!("{at}{list}")).await.unwrap());
        }
        seen
    };
    let before = seen().await;
    let (good, said) = tool.run(&["restore", "mine", "--as-org", &victim.org, "--slug", &slug]).await;
    assert!(!good && said.contains("another organization that lives"), "{said}");
    assert_eq!(seen().await, before);
    // Half of it may be of then: it does not live before it is whole.
    let resumed = operator.call(Method::POST, &life(":resume"), Some(&json!({}))).await.unwrap();
    assert_eq!((resumed.status, &resumed.body["code"]), (409, &json!("conflict")), "{}", resumed.body);
    tool.must(&["restore", "theirs"]).await;
    victim.owner.until_ok(&at, 20).await.unwrap();
    victim.owner.until(&at, 20, "its life", |v| v["state"] == "active").await.unwrap();
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_holds_nobody_who_is_gone() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let tool = Tool::new(&stack);
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    let (_, left) = join(&operator, &owner, &org, "admin").await;
    let (gone, gone_id) = join(&operator, &owner, &org, "owner").await;
    let (_, demoted) = join(&operator, &owner, &org, "admin").await;
    let key = owner.post(&at("/keys"), &json!({ "name": "program", "role": "admin" })).await.unwrap();
    let key = text(&key["key"], "id");
    tool.must(&["backup", &org, "then"]).await;
    owner.delete(&at(&format!("/members/{left}"))).await.unwrap();
    owner.patch(&at(&format!("/members/{demoted}")), &json!({ "role": "viewer" })).await.unwrap();
    let address = text(&gone.get("/v1/me").await.unwrap(), "email");
    gone.delete(&format!("/v1/me?email={address}")).await.unwrap();

    // While the original lives.
    let (copy, slug) = new_org();
    tool.must(&["restore", "then", "--as-org", &copy, "--slug", &slug]).await;
    let there = |rest: &str| format!("/v1/orgs/{copy}{rest}");
    owner.until_ok(&there(""), 20).await.unwrap();
    owner.until(&there(""), 20, "its life", |v| v["state"] == "active").await.unwrap();
    let members = owner.all(&there("/members"), "members").await.unwrap();
    let ids: Vec<&str> = members.iter().filter_map(|m| m["user_id"].as_str()).collect();
    assert!(
        ids.len() == 2 && !ids.contains(&left.as_str()) && !ids.contains(&gone_id.as_str()),
        "{members:?}"
    );
    let role = members.iter().find(|m| m["user_id"] == demoted.as_str()).map(|m| text(m, "role"));
    assert_eq!(role.as_deref(), Some("viewer"), "what they are by now: {members:?}");
    let leaving = owner.call(Method::POST, &there(":leave"), Some(&json!({}))).await.unwrap();
    assert_eq!(leaving.body["code"], "last_owner", "{}", leaving.body);
    let keys = owner.all(&there("/keys"), "keys").await.unwrap();
    let ended = keys.iter().find(|k| k["id"] == key.as_str()).unwrap();
    assert!(ended["revoked_at"].is_string(), "the original's key opens nothing here: {ended}");

    // Once the original is gone, and its last owner with it, there is nobody to give it to.
    purge(&stack, &operator, &owner, &org).await;
    owner.delete(&there(&format!("?slug={slug}"))).await.unwrap();
    let address = text(&owner.get("/v1/me").await.unwrap(), "email");
    owner.delete(&format!("/v1/me?email={address}")).await.unwrap();
    let (nobodys, slug) = new_org();
    let (good, said) = tool.run(&["restore", "then", "--as-org", &nobodys, "--slug", &slug]).await;
    assert!(!good && said.contains("Nobody could own it"), "{said}");
    // Nothing is left of it: not its id, nor its slug, nor a data key that a change of the master key would wait for.
    let life = operator.call(Method::GET, &format!("/v1/operator/orgs/{nobodys}"), None).await.unwrap();
    assert_eq!(life.status, 404, "{}", life.body);
    let mut db = stack.database("tenancy").await.unwrap();
    let left: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM control.data_keys WHERE org_id = $1) + (SELECT count(*) FROM control.slugs WHERE slug = $2)",
    )
    .bind(&nobodys)
    .bind(&slug)
    .fetch_one(&mut db)
    .await
    .unwrap();
    assert_eq!(left, 0);
    // Its receipt is an operator's to hand over.
    let life = operator.get(&format!("/v1/operator/orgs/{org}")).await.unwrap();
    assert!(text(&life["purge_receipt"], "payload").contains(&org), "{life}");
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_before_a_change_of_the_master_key_is_put_back_under_the_new_one() {
    let new = nitejar_common::token::generate_key().0.expose().to_owned();
    let accepted = new.clone();
    let mut stack =
        TestStack::start_changed(test_tweaks(), |keys| keys.former_masters.push(accepted)).await.unwrap();
    let operator = stack.operator().unwrap();
    let w = World::new(&stack).await;
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", w.org);
    let tool = Tool::new(&stack);
    tool.must(&["backup", &w.org, "then"]).await;
    let mut keys = stack.keys.clone();
    let old = std::mem::replace(&mut keys.master, new.clone());
    keys.former_masters = vec![old.clone()];
    let second = operator.at(&stack.another_tenancy(&keys).await.unwrap());
    let progress = "/v1/operator/master-key-rotation";
    second.until(progress, 60, "all data keys", |v| v["remaining"] == 0).await.unwrap();
    // It knows the old key no more; the operators' program must, for the backup.
    keys.former_masters.clear();
    let third = w.owner.at(&stack.another_tenancy(&keys).await.unwrap());
    tool.master_keys(&[&new, &old]);
    tool.must(&["restore", "then"]).await;
    // A service that was asked just then had the old place in mind.
    w.owner.until_ok(&at(""), 20).await.unwrap();
    w.owner.until(&at(""), 20, "its life", |v| v["state"] == "active").await.unwrap();
    let mut db = stack.database("tenancy").await.unwrap();
    let (number, master): (i64, String) = sqlx::query_as(
        "SELECT t.number, k.master FROM control.tenants t JOIN control.data_keys k USING (org_id) WHERE org_id = $1",
    )
    .bind(&w.org)
    .fetch_one(&mut db)
    .await
    .unwrap();
    let newest = nitejar_tenancy::domain::envelope::MasterKey::parse(&Secret::new(&new)).unwrap();
    assert_eq!(master, newest.id());
    let wrapped: Vec<Vec<u8>> =
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT wrapped FROM t_{number}.data_keys")))
            .fetch_all(&mut db)
            .await
            .unwrap();
    let org: OrgId = w.org.parse().unwrap();
    assert!(!wrapped.is_empty() && wrapped.iter().all(|w| newest.unwrap_data_key(&org, w).is_ok()));
    third.put(&at("/secrets/NEW"), &json!({ "value": "after" })).await.unwrap();
    stack.stop().await.unwrap();
}

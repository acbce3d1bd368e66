//! Every mutation leaves its audit event, and every chain holds.

use std::collections::BTreeSet;

use nitejar_dev::client::text;
use nitejar_dev::test_stack::{TestStack, person};
use nitejar_proto::POLICIES;
use nitejar_proto::policy::Scope;
use serde_json::{Value, json};

use crate::endpoints::short;
use crate::world::{World, finished, join};

#[tokio::test(flavor = "multi_thread")]
async fn every_mutation_is_audited() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let w = World::new(&stack).await;
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", w.org);
    let o = &w.owner;
    // What the world itself did not do yet.
    o.patch(&at(""), &json!({ "name": "Renamed" })).await.unwrap();
    o.patch(&at(&format!("/roles/{}", w.role)), &json!({ "description": "Changed." })).await.unwrap();
    o.delete(&at(&format!("/roles/{}", w.role))).await.unwrap();
    o.delete(&at(&format!("/exports/{}", w.export))).await.unwrap();
    let (leaver, _) = join(&operator, o, &w.org, "viewer").await;
    leaver.post(&at(":leave"), &json!({})).await.unwrap();
    o.patch(&at(&format!("/members/{}", w.member_id)), &json!({ "role": "viewer" })).await.unwrap();
    o.delete(&at(&format!("/members/{}", w.member_id))).await.unwrap();
    assert_eq!(
        w.member.call(reqwest::Method::GET, &at(""), None).await.unwrap().status,
        404,
        "access ends at once"
    );
    o.delete(&at(&format!("/invitations/{}", w.invitation))).await.unwrap();
    o.patch(&at(&format!("/keys/{}", w.key)), &json!({ "name": "renamed" })).await.unwrap();
    o.post(&at(&format!("/keys/{}:rotate", w.key)), &json!({})).await.unwrap();
    o.delete(&at(&format!("/keys/{}", w.key))).await.unwrap();
    crate::leaks::leak(&stack, o, &w.org).await;
    o.patch(&at(&format!("/agents/{}", w.agent)), &json!({ "config": { "command": "sleep 60" } }))
        .await
        .unwrap();
    let item = o.post(&at("/work-items"), &json!({ "agent_id": w.agent, "title": "t" })).await.unwrap();
    let job = item["job_ids"][0].as_str().unwrap();
    o.post(&at(&format!("/jobs/{job}:cancel")), &json!({})).await.unwrap();
    o.post(&at(&format!("/jobs/{job}:retry")), &json!({})).await.unwrap();
    o.post(&at(&format!("/agents/{}:pause", w.agent)), &json!({})).await.unwrap();
    o.post(&at(&format!("/agents/{}:resume", w.agent)), &json!({})).await.unwrap();
    o.delete(&at(&format!("/agents/{}", w.agent))).await.unwrap();
    assert_eq!(finished(o, &w.org, job).await["state"], "cancelled");
    o.post(&at("/secrets/TOKEN:restore"), &json!({ "version": 1 })).await.unwrap();
    o.post(&at("/secrets:rotateDataKey"), &json!({})).await.unwrap();
    o.delete(&at("/secrets/TOKEN")).await.unwrap();
    o.delete(&at(&format!("/integrations/{}", w.integration))).await.unwrap();

    crate::lives::turns(&operator, o, &w.org).await;
    crate::members::deeds(&operator, o, &w.org).await;
    crate::people::come_and_go(&stack).await;
    crate::support::deeds(&stack, o, &w.org).await;
    let all_of_domains = crate::domains::deeds(&stack, o, &w.org).await;

    let mut wanted: BTreeSet<(String, String)> =
        POLICIES.values().filter_map(|p| Some((p.audit.clone()?, short(p)))).collect();
    wanted
        .retain(|(_, rpc)| all_of_domains || !["Domains.VerifyDomain", "Domains.JoinOrg"].contains(&&**rpc));
    // What belongs to a person, or to nobody yet, stands in the platform's log.
    let of_platform = |p: &str| {
        let personal = p.starts_with("Sessions.") || p.starts_with("Users.");
        personal
            || POLICIES.values().any(|q| {
                short(q) == p
                    && q.scope == Scope::Operator
                    && p != "Subscriptions.SetPlan"
                    && !p.starts_with("OrgLives.")
                    && !p.starts_with("Support.")
            })
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let own = actions(&o.all(&at("/audit-events?page_size=500"), "events").await.unwrap());
        let platform =
            actions(&operator.all("/v1/operator/audit-events?page_size=500", "events").await.unwrap());
        let missing: Vec<_> = wanted
            .iter()
            .filter(|(action, rpc)| !if of_platform(rpc) { &platform } else { &own }.contains(action))
            .collect();
        if missing.is_empty() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "no audit event of {missing:?}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let verdict = o.get(&at("/audit-events:verify")).await.unwrap();
    assert_eq!(verdict["valid"], true, "{verdict}");
    stack.stop().await.unwrap();
}

fn actions(events: &[Value]) -> BTreeSet<String> {
    events.iter().map(|e| text(e, "action")).collect()
}

/// A log that was changed behind our back is noticed.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_log_is_noticed_and_refusals_are_in_it() {
    use sqlx::{AssertSqlSafe, Executor as _};
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let w = World::new(&stack).await;
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", w.org);
    let refused =
        w.member.call(reqwest::Method::POST, &at("/agents"), Some(&json!({ "handle": "no" }))).await.unwrap();
    assert_eq!(refused.status, 403);
    let denied = |v: &Value| {
        v["events"].as_array().is_some_and(|l| l.iter().any(|e| e["actor_id"] == w.member_id.as_str()))
    };
    let found =
        w.owner.until(&at("/audit-events?action=access.denied"), 20, "the refusal", denied).await.unwrap();
    assert_eq!(found["events"][0]["outcome"], "denied");
    let (stranger, id) = person(&operator, "stranger").await.unwrap();
    assert_eq!(stranger.call(reqwest::Method::GET, &at(""), None).await.unwrap().status, 404);
    let noted =
        |v: &Value| v["events"].as_array().is_some_and(|l| l.iter().any(|e| e["actor_id"] == id.as_str()));
    operator
        .until("/v1/operator/audit-events?action=access.denied&page_size=500", 20, "the stranger", noted)
        .await
        .unwrap();

    // The owner of the database changes one event, as a thief of the server could.
    let mut raw = stack.database("audit").await.unwrap();
    let number: i64 = sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
        .bind(&w.org)
        .fetch_one(&mut raw)
        .await
        .unwrap();
    raw.execute(AssertSqlSafe(format!(
        "UPDATE t_{number}.events SET actor_id = 'user_other' WHERE sequence = 3"
    )))
    .await
    .unwrap();
    let verdict = w.owner.get(&at("/audit-events:verify")).await.unwrap();
    assert_eq!(
        (verdict["valid"].as_bool(), verdict["broken_at"].as_i64()),
        (Some(false), Some(3)),
        "{verdict}"
    );
    stack.stop().await.unwrap();
}

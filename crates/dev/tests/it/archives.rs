//! One organization into a folder and back: the same rows under another id, nothing of a changed archive, and a whole one
//! after whatever kill.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nitejar_common::clock::SystemClock;
use nitejar_common::id::OrgId;
use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person, target_dir};
use reqwest::Method;
use serde_json::{Value, json};

use crate::digests::{Rows, differing};
use crate::world::{World, finished};

/// The operators' program, as a process of its own.
pub(crate) struct Tool {
    pub(crate) dir: PathBuf,
}

impl Tool {
    pub(crate) fn new(stack: &TestStack) -> Self {
        Self::with_second(stack, &BTreeMap::new())
    }

    /// The same, where services have a second database.
    pub(crate) fn with_second(stack: &TestStack, second: &BTreeMap<&'static str, String>) -> Self {
        // As a file says it: the types themselves never write a secret.
        let database = |url: &str| {
            let secret = nitejar_db::testing::config("").login_secret;
            json!({ "url": url, "login_secret": secret.expose(), "buckets": 2, "spares": 2 })
        };
        let databases: BTreeMap<&str, Value> =
            stack.databases.iter().map(|(name, db)| (*name, database(&db.handle.url))).collect();
        let mut databases = databases;
        for (service, url) in second {
            databases.get_mut(service).unwrap()["more"] = json!({ "second": url });
        }
        let config = json!({ "databases": databases, "master_keys": [stack.keys.master] });
        let dir = stack.dir.path().to_owned();
        std::fs::write(dir.join("tenants.json"), config.to_string()).unwrap();
        Self { dir }
    }

    /// The newest first.
    pub(crate) fn master_keys(&self, keys: &[&str]) {
        let path = self.dir.join("tenants.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["master_keys"] = json!(keys);
        std::fs::write(path, config.to_string()).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(target_dir().unwrap().join("nitejar-dev"));
        command.args(["tenants", "--config", "tenants.json"]).args(args).current_dir(&self.dir);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Whether it succeeded, and what it said.
    pub(crate) async fn run(&self, args: &[&str]) -> (bool, String) {
        let mut command = self.command(args);
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    pub(crate) async fn must(&self, args: &[&str]) -> String {
        let (good, said) = self.run(args).await;
        assert!(good, "{args:?}: {said}");
        said
    }

    async fn digests(&self, of: &str) -> BTreeMap<String, String> {
        let said = self.must(&["digests", of]).await;
        let line =
            |line: &str| line.rsplit_once(' ').map(|(name, digest)| (name.to_owned(), digest.to_owned()));
        said.lines().filter_map(line).collect()
    }
}

async fn suspend(operator: &Client, org: &str) {
    operator.post(&format!("/v1/operator/orgs/{org}:suspend"), &json!({ "reason": "backup" })).await.unwrap();
}

/// Everything that was on its way has arrived.
async fn quiet(stack: &TestStack, org: &str) {
    Rows::of(&stack.databases, org).await.quiet().await;
}

pub(crate) async fn purge(stack: &TestStack, operator: &Client, owner: &Client, org: &str) {
    let slug = text(&owner.get(&format!("/v1/orgs/{org}")).await.unwrap(), "slug");
    owner.delete(&format!("/v1/orgs/{org}?slug={slug}")).await.unwrap();
    let mut db = stack.database("tenancy").await.unwrap();
    sqlx::query("UPDATE control.orgs SET purge_after = now() WHERE id = $1")
        .bind(org)
        .execute(&mut db)
        .await
        .unwrap();
    let life = format!("/v1/operator/orgs/{org}");
    operator.until(&life, 60, "the purge", |v| v["state"] == "purged").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_purged_comes_back_under_another_id_with_the_same_rows() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let tool = Tool::new(&stack);
    let (w, neighbour) = (World::new(&stack).await, World::new(&stack).await);
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", w.org);
    let key = w.owner.post(&at("/keys"), &json!({ "name": "program", "role": "admin" })).await.unwrap();
    let program = operator.with_key(&text(&key, "secret"));
    let config =
        json!({ "command": "printf '%s' \"$TOKEN\" | sha256sum > $NITEJAR_RESULT", "secrets": ["TOKEN"] });
    w.owner.patch(&at(&format!("/agents/{}", w.agent)), &json!({ "config": config })).await.unwrap();
    suspend(&operator, &w.org).await;
    quiet(&stack, &w.org).await;
    tool.must(&["backup", &w.org, "first"]).await;
    let digests = tool.digests("first").await;
    assert!(digests.len() > 20, "{digests:?}");
    assert_ne!(digests["tenancy members"], digests["sprites jobs"]);
    let before = w.snapshot().await;
    purge(&stack, &operator, &w.owner, &w.org).await;
    let others = neighbour.snapshot().await;
    let refused = tool.run(&["restore", "first"]).await;
    assert!(!refused.0 && refused.1.contains("purged"), "its own id is never used again: {}", refused.1);

    let other = OrgId::new(&SystemClock).to_string();
    let slug = format!("again-{}", &other[20..]);
    let said = tool.must(&["restore", "first", "--as-org", &other, "--slug", &slug]).await;
    assert!(!said.contains("left out"), "{said}");
    let there = |rest: &str| format!("/v1/orgs/{other}{rest}");
    // The same rows: taken again, every digest is the same.
    suspend(&operator, &other).await;
    quiet(&stack, &other).await;
    tool.must(&["backup", &other, "second"]).await;
    let again = tool.digests("second").await;
    // What has happened to it since stands in its log, its Sprites were provisioned anew, and its exports, which hold the
    // other one's rows, are gone; nothing else has changed.
    let differ: Vec<&String> = digests.keys().filter(|name| again.get(*name) != digests.get(*name)).collect();
    let expected =
        ["audit chain_head", "audit events", "sprites sprites", "tenancy exports", "tenancy export_parts"];
    assert!(differ.iter().all(|name| expected.contains(&name.as_str())), "{differ:?}");
    operator.post(&format!("/v1/operator/orgs/{other}:resume"), &json!({})).await.unwrap();
    w.owner.until(&there(""), 10, "its life", |v| v["state"] == "active").await.unwrap();
    // And it lives: people, keys, secrets, work, log.
    assert_eq!(w.owner.get(&there("/members")).await.unwrap(), before[1]);
    for _ in 0..100 {
        if program.call(Method::GET, &there(""), None).await.unwrap().status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(program.get(&there("/secrets")).await.unwrap()["secrets"][0]["name"], "TOKEN");
    let item = json!({ "agent_id": w.agent, "title": "after" });
    let item = w.owner.post(&there("/work-items"), &item).await.unwrap();
    let job = finished(&w.owner, &other, item["job_ids"][0].as_str().unwrap()).await;
    let secret = hex::encode(nitejar_common::key::sha256("victims-secret-value"));
    assert_eq!(text(&job, "output").split_whitespace().next(), Some(secret.as_str()), "{job}");
    let verdict = w.owner.get(&there("/audit-events:verify")).await.unwrap();
    assert_eq!(verdict["valid"], true, "{verdict}");
    assert_eq!(neighbour.snapshot().await, others);
    stack.stop().await.unwrap();
}

fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copied(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_archive_restores_nothing() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let tool = Tool::new(&stack);
    let (w, victim) = (World::new(&stack).await, World::new(&stack).await);
    tool.must(&["backup", &w.org, "good"]).await;
    quiet(&stack, &w.org).await;
    let (before, own) = (victim.snapshot().await, w.snapshot().await);
    let change = |name: &str, file: &str, change: &dyn Fn(String) -> String| {
        let dir = tool.dir.join(name);
        copied(&tool.dir.join("good"), &dir);
        let path = dir.join(file);
        let old = std::fs::read_to_string(&path).unwrap();
        let new = change(old.clone());
        assert_ne!(old, new, "{name}");
        std::fs::write(path, new).unwrap();
    };
    let manifest = "tenancy/manifest.json";
    let digest_of = |dir: &str, table: &str| {
        let text = std::fs::read_to_string(tool.dir.join(dir).join(manifest)).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        let tables = value["tables"].as_array().unwrap();
        text_of(tables.iter().find(|t| t["name"] == table).unwrap(), "sha256")
    };
    let org = w.org.clone();
    change("rows", "tenancy/members.copy", &|t| t.replace("owner", "admin"));
    change("cut", "sprites/jobs.copy", &|_| String::new());
    // In the services that would come last.
    change("plan", "billing/subscription.copy", &|t| t.replace("team", "free"));
    change("log", "audit/events.copy", &|t| t.replace("org.created", "org.deleted"));
    change("digest", manifest, &|t| t.replace(&digest_of("good", "members"), &"0".repeat(64)));
    change("path", manifest, &|t| t.replace("\"members\"", "\"../../etc/passwd\""));
    change("column", manifest, &|t| t.replace("\"joined_at\"", "\"joined_at; DROP TABLE org\""));
    change("future", manifest, &|t| t.replace("\"schema_version\": ", "\"schema_version\": 9"));
    change("service", manifest, &|t| t.replace("\"tenancy\"", "\"billing\""));
    change("other", manifest, &|t| t.replace(&org, &victim.org));
    change("no org", "org.json", &|_| "{}".into());
    // Somebody who can write files makes all digests fit: without the master key there is no seal.
    let forged = tool.dir.join("forged");
    copied(&tool.dir.join("good"), &forged);
    let rows = std::fs::read_to_string(forged.join("tenancy/members.copy")).unwrap();
    std::fs::write(forged.join("tenancy/members.copy"), rows.replace("\tmember\t", "\towner\t")).unwrap();
    let digest = nitejar_common::key::sha256(&rows.replace("\tmember\t", "\towner\t"));
    let text = std::fs::read_to_string(forged.join(manifest)).unwrap();
    let text = text.replace(&digest_of("good", "members"), &hex::encode(digest));
    std::fs::write(forged.join(manifest), text).unwrap();
    // A's rows as B's: every file that names whose they are names B.
    let renamed = tool.dir.join("renamed");
    copied(&tool.dir.join("good"), &renamed);
    for file in [
        "org.json",
        "tenancy/manifest.json",
        "sprites/manifest.json",
        "billing/manifest.json",
        "audit/manifest.json",
    ] {
        let text = std::fs::read_to_string(renamed.join(file)).unwrap();
        std::fs::write(renamed.join(file), text.replace(&org, &victim.org)).unwrap();
    }
    for name in ["forged", "renamed"] {
        let (good, said) = tool.run(&["restore", name]).await;
        assert!(!good && said.contains("this backup was changed"), "{name}: {said}");
    }
    let changed = ["rows", "cut", "plan", "log", "digest", "path", "column", "future", "service", "other"];
    for name in changed.into_iter().chain(["no org", "nowhere"]) {
        let (good, said) = tool.run(&["restore", name]).await;
        assert!(!good, "{name}: {said}");
        let other = OrgId::new(&SystemClock).to_string();
        let (good, said) = tool.run(&["restore", name, "--as-org", &other, "--slug", "a-copy"]).await;
        assert!(!good, "{name}: {said}");
        let there = operator.call(Method::GET, &format!("/v1/operator/orgs/{other}"), None).await.unwrap();
        assert_eq!(there.status, 404, "{name}: half of a copy is there");
    }
    // Not one service took what another refused.
    assert_eq!(w.snapshot().await, own);
    // One's own archive into another's organization: what was taken of A is never put over B.
    let (good, said) = tool.run(&["restore", "good", "--as-org", &victim.org, "--slug", "mine"]).await;
    assert!(!good, "{said}");
    // Nor over itself, by a slip: another slug is another organization's.
    for flags in [vec!["--slug", "a-copy"], vec!["--as-org", &w.org, "--slug", "a-copy"]] {
        let (good, said) = tool.run(&[&["restore", "good"], &flags[..]].concat()).await;
        assert!(!good, "{flags:?}: {said}");
    }
    for slug in ["www", "nitejar-help", "UPPER", "\u{430}cme", "", "a--b", "../x", &"x".repeat(300)] {
        let other = OrgId::new(&SystemClock).to_string();
        let (good, said) = tool.run(&["restore", "good", "--as-org", &other, "--slug", slug]).await;
        assert!(!good, "{slug:?}: {said}");
    }
    assert_eq!(w.snapshot().await, own);
    let seen = |v: &Value| v["state"] == "active";
    assert_eq!(victim.snapshot().await, before);
    // And the good one does come back.
    tool.must(&["restore", "good"]).await;
    // A service that was asked just then had the old place in mind.
    w.owner.until_ok(&format!("/v1/orgs/{}", w.org), 20).await.unwrap();
    w.owner.until(&format!("/v1/orgs/{}", w.org), 20, "its life", seen).await.unwrap();
    stack.stop().await.unwrap();
}

/// Data is of then, who may enter is of now, and the log goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_in_place_lets_nobody_in_who_was_shut_out_since() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let tool = Tool::new(&stack);
    let w = World::new(&stack).await;
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", w.org);
    let made = w.owner.post(&at("/keys"), &json!({ "name": "leaked", "role": "admin" })).await.unwrap();
    let leaked = operator.with_key(&text(&made, "secret"));
    let kept = w.owner.post(&at("/keys"), &json!({ "name": "kept", "role": "viewer" })).await.unwrap();
    let kept = operator.with_key(&text(&kept, "secret"));
    leaked.until_ok(&at(""), 10).await.unwrap();
    let rotated = w.owner.post(&at("/keys"), &json!({ "name": "rotated", "role": "admin" })).await.unwrap();
    let (old, rotated) = (operator.with_key(&text(&rotated, "secret")), text(&rotated["key"], "id"));
    let (keeper, keeper_id) = crate::world::join(&operator, &w.owner, &w.org, "admin").await;
    let given = |roles: Value| json!({ "role_ids": roles });
    let roles = at(&format!("/members/{keeper_id}/roles"));
    w.owner.put(&roles, &given(json!([w.role]))).await.unwrap();
    w.owner.post(&at("/ownership-offer"), &json!({ "user_id": keeper_id })).await.unwrap();
    tool.must(&["backup", &w.org, "then"]).await;
    let name = text(&w.owner.get(&at("")).await.unwrap(), "name");

    w.owner.delete(&at(&format!("/keys/{}", text(&made["key"], "id")))).await.unwrap();
    w.owner.delete(&at(&format!("/members/{}", w.member_id))).await.unwrap();
    w.owner.delete(&at(&format!("/invitations/{}", w.invitation))).await.unwrap();
    let rotate = json!({ "overlap_seconds": 1 });
    let new = w.owner.post(&at(&format!("/keys/{rotated}:rotate")), &rotate).await.unwrap();
    let new = operator.with_key(&text(&new, "secret"));
    w.owner.delete(&at("/ownership-offer")).await.unwrap();
    w.owner.put(&roles, &given(json!([]))).await.unwrap();
    let second = json!({ "name": "second", "permissions": ["audit.read"] });
    let second = text(&w.owner.post(&at("/roles"), &second).await.unwrap(), "id");
    let (late, late_id) = crate::world::join(&operator, &w.owner, &w.org, "viewer").await;
    w.owner.put(&at(&format!("/members/{late_id}/roles")), &given(json!([second]))).await.unwrap();
    late.until_ok(&at("/audit-events"), 10).await.unwrap();
    let (heir, heir_id) = crate::world::join(&operator, &w.owner, &w.org, "owner").await;
    w.owner.patch(&at(""), &json!({ "name": "of now" })).await.unwrap();
    operator
        .put(&format!("/v1/operator/orgs/{}/legal-hold", w.org), &json!({ "reason": "case 7" }))
        .await
        .unwrap();
    let (good, said) = tool.run(&["restore", "then"]).await;
    assert!(!good && said.contains("legal hold"), "{said}");
    operator.delete(&format!("/v1/operator/orgs/{}/legal-hold", w.org)).await.unwrap();
    let said = tool.must(&["restore", "then"]).await;
    assert!(said.contains("audit: stays as it is"), "{said}");

    let again = |v: &Value| v["state"] == "active" && v["name"] == name.as_str();
    heir.until_ok(&at(""), 20).await.unwrap();
    heir.until(&at(""), 20, "the name of then", again).await.unwrap();
    for shut_out in [&leaked, &w.member, &old] {
        let answer = shut_out.call(Method::GET, &at(""), None).await.unwrap();
        assert!(matches!(answer.status, 401 | 404), "{} {}", answer.status, answer.body);
    }
    kept.until_ok(&at(""), 20).await.unwrap();
    let members = heir.all(&at("/members"), "members").await.unwrap();
    let ids: Vec<&str> = members.iter().filter_map(|m| m["user_id"].as_str()).collect();
    assert!(ids.contains(&heir_id.as_str()) && !ids.contains(&w.member_id.as_str()), "{ids:?}");
    // A rotated key's successor, a withdrawn offer, roles that were given and taken since: all as they are now.
    new.until_ok(&at(""), 20).await.unwrap();
    late.until_ok(&at("/audit-events"), 20).await.unwrap();
    let offer = at("/ownership-offer:accept");
    let accepted = keeper.call(Method::POST, &offer, Some(&json!({}))).await.unwrap();
    assert_eq!(accepted.status, 404, "{}", accepted.body);
    let kept_roles = members.iter().find(|m| m["user_id"] == keeper_id.as_str()).unwrap();
    assert_eq!(kept_roles["role_ids"], json!([]));
    let invited = heir.all(&at("/invitations"), "invitations").await.unwrap();
    assert!(invited.iter().all(|i| i["id"] != w.invitation.as_str()), "{invited:?}");
    let told = |v: &Value| {
        let events = v["events"].as_array().unwrap();
        let has = |action: &str| events.iter().any(|e| e["action"] == action);
        has("org.restored_from_backup") && has("member.removed") && has("org.hold_released")
    };
    heir.until(&at("/audit-events"), 20, "the restore in the log", told).await.unwrap();
    assert_eq!(heir.get(&at("/audit-events:verify")).await.unwrap()["valid"], true);
    stack.stop().await.unwrap();
}

fn text_of(value: &Value, field: &str) -> String {
    text(value, field)
}

/// Whether a restore has a transaction open: it connects as the databases' owner, which the services do
/// only for a moment.
async fn restoring(stack: &TestStack) -> bool {
    let mut db = stack.database("tenancy").await.unwrap();
    let names: Vec<String> = stack
        .databases
        .values()
        .filter_map(|database| database.handle.url.rsplit('/').next()?.split('?').next().map(str::to_owned))
        .collect();
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid() \
         AND datname = ANY ($1) AND xact_start IS NOT NULL)",
    )
    .bind(names)
    .fetch_one(&mut db)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_twenty_times_ends_whole() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let tool = Tool::new(&stack);
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    for i in 0..30 {
        let wish = json!({ "email": format!("guest-{i}@example.com"), "role": "viewer" });
        let answer =
            owner.call(Method::POST, &format!("/v1/orgs/{org}/invitations"), Some(&wish)).await.unwrap();
        assert!(answer.status == 200 || answer.status == 402);
    }
    suspend(&operator, &org).await;
    quiet(&stack, &org).await;
    tool.must(&["backup", &org, "first"]).await;
    let digests = tool.digests("first").await;
    // How long a whole one takes here.
    let began = std::time::Instant::now();
    tool.must(&["restore", "first"]).await;
    let whole = began.elapsed();
    let mut under_way = 0;
    for i in 0..20 {
        let mut child = tool.command(&["restore", "first"]).spawn().unwrap();
        let share = f64::from(u32::try_from(nitejar_common::rng::below(1000)).unwrap()) / 1000.0;
        tokio::time::sleep(whole.mul_f64(share)).await;
        under_way += usize::from(child.try_wait().unwrap().is_none() && restoring(&stack).await);
        let _ = child.kill();
        child.wait().unwrap();
        // Whatever moment it was: each service has the organization, whole.
        for service in ["tenancy", "sprites", "billing", "audit"] {
            let mut db = stack.database(service).await.unwrap();
            let there: i64 = sqlx::query_scalar("SELECT count(*) FROM control.tenants WHERE org_id = $1 AND state = 'active' OR org_id = $1 AND state = 'suspended'")
                .bind(&org)
                .fetch_one(&mut db)
                .await
                .unwrap();
            assert_eq!(there, 1, "{service} after kill {i}");
        }
    }
    assert!(under_way >= 6, "only {under_way} of 20 kills met a restore at work");
    tool.must(&["restore", "first"]).await;
    suspend(&operator, &org).await;
    quiet(&stack, &org).await;
    tool.must(&["backup", &org, "second"]).await;
    // Every table is there, with the rows that it had. Two must differ: the log stays as it is and goes on, so that each restore
    // is an event of it, and its head names the last one.
    let differ = differing(&digests, &tool.digests("second").await);
    assert_eq!(differ, ["audit chain_head", "audit events"]);
    // No schema is left over.
    for service in ["tenancy", "sprites", "billing", "audit"] {
        let mut db = stack.database(service).await.unwrap();
        let strays: Vec<String> = sqlx::query_scalar(
            "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 't\\_%' \
             AND substring(nspname FROM 3)::bigint NOT IN (SELECT number FROM control.tenants)",
        )
        .fetch_all(&mut db)
        .await
        .unwrap();
        assert!(strays.is_empty(), "{service}: {strays:?}");
    }
    stack.stop().await.unwrap();
}

//! An organization's life: renamed, suspended, to be deleted, kept after all, deleted for ever.

use std::process::Command;

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person, target_dir};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::people::mail;
use crate::world::{World, finished, join};

/// Everything that may happen to an organization that goes on afterwards.
pub(crate) async fn turns(operator: &Client, owner: &Client, org: &str) {
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");
    let life = |rest: &str| format!("/v1/operator/orgs/{org}{rest}");
    let slug = text(&owner.get(&at("")).await.unwrap(), "slug");
    owner.post(&at(":rename"), &json!({ "slug": format!("{slug}-x") })).await.unwrap();
    owner.post(&at(":rename"), &json!({ "slug": slug })).await.unwrap();
    operator.post(&life(":suspend"), &json!({ "reason": "unpaid" })).await.unwrap();
    operator.post(&life(":resume"), &json!({})).await.unwrap();
    operator.put(&life("/legal-hold"), &json!({ "reason": "case 1" })).await.unwrap();
    operator.delete(&life("/legal-hold")).await.unwrap();
    owner.delete(&at(&format!("?slug={slug}"))).await.unwrap();
    owner.post(&at(":restore"), &json!({})).await.unwrap();
    works(owner, org).await;
}

/// Waits until a gateway has heard that an organization's changes go on.
pub(crate) async fn works(owner: &Client, org: &str) {
    for _ in 0..80 {
        let answer = owner.call(Method::PATCH, &format!("/v1/orgs/{org}"), Some(&json!({}))).await.unwrap();
        if answer.status == 200 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("{org} does not go on");
}

/// Waits until a change is refused with that code: gateways hear of it within a second.
async fn refuses(client: &Client, method: Method, path: &str, body: Value, code: &str) {
    for _ in 0..80 {
        if refused(client, method.clone(), path, body.clone()).await == (403, code.to_owned()) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("{method} {path} is not refused with {code}");
}

async fn refused(client: &Client, method: Method, path: &str, body: Value) -> (u16, String) {
    let answer = client.call(method, path, Some(&body)).await.unwrap();
    (answer.status, text(&answer.body, "code"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_organization_is_read_and_its_work_begins_anew_afterwards() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let w = World::new(&stack).await;
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", w.org);
    let life = |rest: &str| format!("/v1/operator/orgs/{}{rest}", w.org);
    let agent = at(&format!("/agents/{}", w.agent));
    let command =
        "if [ -e $HOME/again ]; then echo done > $NITEJAR_RESULT; else touch $HOME/again; sleep 300; fi";
    w.owner.patch(&agent, &json!({ "config": { "command": command, "secrets": [] } })).await.unwrap();
    let key = w.owner.post(&at("/keys"), &json!({ "name": "k", "role": "admin" })).await.unwrap();
    let program = operator.with_key(&text(&key, "secret"));
    let item = w.owner.post(&at("/work-items"), &json!({ "agent_id": w.agent, "title": "t" })).await.unwrap();
    let job = item["job_ids"][0].as_str().unwrap().to_owned();
    let path = at(&format!("/jobs/{job}"));
    let in_state = |state: &'static str| move |v: &Value| v["state"] == state;
    w.owner.until(&path, 30, "the job", in_state("running")).await.unwrap();

    let suspended =
        operator.post(&life(":suspend"), &json!({ "reason": "Three invoices are overdue." })).await.unwrap();
    assert_eq!(suspended["state"], "suspended");
    let seen =
        |v: &Value| v["state"] == "suspended" && v["suspension"]["reason"] == "Three invoices are overdue.";
    w.owner.until(&at(""), 5, "the suspension", seen).await.unwrap();
    // Whoever is asked, and by whatever credential: reading works, changes do not.
    let item = json!({ "agent_id": w.agent, "title": "no" });
    for client in [&w.owner, &program] {
        client.until(&at("/jobs"), 5, "reading", |v| v["jobs"].is_array()).await.unwrap();
        refuses(client, Method::POST, &at("/work-items"), item.clone(), "org_suspended").await;
    }
    refuses(&w.owner, Method::PATCH, &at(""), json!({ "name": "No" }), "org_suspended").await;
    for (permission, allowed) in [("jobs.run", false), ("jobs.read", true)] {
        let path = at(&format!("/access:explain?actor_id={}&permission={permission}", w.member_id));
        let why = w.owner.get(&path).await.unwrap();
        assert_eq!(why["allowed"], allowed, "{why}");
    }
    // What lessens access goes on.
    w.owner.delete(&at(&format!("/keys/{}", text(&key["key"], "id")))).await.unwrap();
    // The running job was taken back, uncounted, and its Sprite rests.
    let back = |v: &Value| v["state"] == "queued" && v["attempts"] == 0;
    w.owner.until(&path, 20, "the job's return", back).await.unwrap();
    let rests = |v: &Value| v["sprite"]["state"] == "stopped";
    w.owner.until(&agent, 20, "the Sprite's rest", rests).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(w.owner.get(&path).await.unwrap()["state"], "queued", "nothing starts meanwhile");
    // An owner can't end it by deleting and restoring.
    let slug = text(&w.owner.get(&at("")).await.unwrap(), "slug");
    assert_eq!(w.owner.delete(&at(&format!("?slug={slug}"))).await.unwrap()["state"], "deleting");
    assert_eq!(w.owner.post(&at(":restore"), &json!({})).await.unwrap()["state"], "suspended");

    operator.post(&life(":resume"), &json!({})).await.unwrap();
    let ended = finished(&w.owner, &w.org, &job).await;
    assert_eq!((&ended["state"], &ended["attempts"]), (&json!("completed"), &json!(1)), "{ended}");
    let events = w.owner.all(&at("/audit-events?page_size=500"), "events").await.unwrap();
    for action in ["org.suspended", "org.deletion_scheduled", "org.restored", "org.resumed"] {
        assert_eq!(events.iter().filter(|e| e["action"] == action).count(), 1, "{action}");
    }
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_slug_leads_on_and_nobody_else_gets_it() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let (other, _) = person(&operator, "other").await.unwrap();
    let (org, theirs) = (organization(&owner).await.unwrap(), organization(&other).await.unwrap());
    let first = text(&owner.get(&format!("/v1/orgs/{org}")).await.unwrap(), "slug");
    let rename = async |client: &Client, org: &str, slug: &str| {
        client
            .call(Method::POST, &format!("/v1/orgs/{org}:rename"), Some(&json!({ "slug": slug })))
            .await
            .unwrap()
    };
    let second = format!("{first}-b");
    assert_eq!(rename(&owner, &org, &second).await.body["slug"], second.as_str());
    for (slug, moved) in [(&first, true), (&second, false)] {
        let found = owner.get(&format!("/v1/orgs:lookup?slug={slug}")).await.unwrap();
        assert_eq!(found, json!({ "org_id": org, "slug": second, "moved": moved }));
        // Whose it is is nobody else's business; but they do not get it either.
        let asked = other.call(Method::GET, &format!("/v1/orgs:lookup?slug={slug}"), None).await.unwrap();
        assert_eq!(asked.status, 404);
        assert_eq!(rename(&other, &theirs, slug).await.body["code"], "already_exists");
        let made = json!({ "slug": slug, "name": "squatter" });
        assert_eq!(refused(&other, Method::POST, "/v1/orgs", made).await, (409, "already_exists".into()));
    }
    for slug in ["www", "support", "nitejar"] {
        assert_eq!(rename(&owner, &org, slug).await.status, 409, "{slug}");
    }
    for slug in ["Acme", "-a-", "a--b", "xn", "\u{430}cme", "acme\u{202e}"] {
        assert_eq!(rename(&owner, &org, slug).await.status, 400, "{slug}");
    }
    // Back and forth is one event each, and ten old slugs are enough.
    assert_eq!(rename(&owner, &org, &first).await.status, 200);
    assert_eq!(rename(&owner, &org, &first).await.status, 200);
    for i in 0..9 {
        assert_eq!(rename(&owner, &org, &format!("{first}-{i}")).await.status, 200);
    }
    assert_eq!(rename(&owner, &org, &format!("{first}-9")).await.body["code"], "conflict");
    let renamed = |v: &Value| v["events"].as_array().is_some_and(|l| l.len() == 11);
    let log = format!("/v1/orgs/{org}/audit-events?action=org.renamed");
    owner.until(&log, 10, "eleven events", renamed).await.unwrap();
    let path = format!("/v1/orgs/{org}");
    for wrong in [
        json!({ "name": "a\u{61c}b" }),
        json!({ "name": "a\u{2028}b" }),
        json!({ "settings": { "billing_email": "a..b@example.com" } }),
        json!({ "settings": { "billing_email": "a@example.com." } }),
    ] {
        assert_eq!(refused(&owner, Method::PATCH, &path, wrong.clone()).await.0, 400, "{wrong}");
    }
    owner.patch(&path, &json!({ "settings": { "billing_email": "Bills@example.com" } })).await.unwrap();
    // Notes are bounded, and replaced as a whole.
    owner.patch(&path, &json!({ "metadata": { "a": "1", "b": "2" }, "external_id": "crm-1" })).await.unwrap();
    let changed = owner.patch(&path, &json!({ "metadata": { "c": "3" } })).await.unwrap();
    assert_eq!((&changed["metadata"], &changed["external_id"]), (&json!({ "c": "3" }), &json!("crm-1")));
    let many: serde_json::Map<String, Value> = (0..51).map(|i| (format!("k{i}"), json!(""))).collect();
    for wrong in [
        json!({ "a b": "" }),
        json!({ "": "" }),
        json!({ "k": "v".repeat(501) }),
        json!(many),
        json!({ "k": 1 }),
    ] {
        let answer = refused(&owner, Method::PATCH, &path, json!({ "metadata": wrong })).await;
        assert_eq!(answer, (400, "invalid_argument".into()), "{wrong}");
    }
    assert_eq!(owner.get(&path).await.unwrap()["metadata"], json!({ "c": "3" }));
    stack.stop().await.unwrap();
}

/// Every row in `control`, of whatever table, that mentions a text; and the schema of a number.
async fn traces(stack: &TestStack, service: &str, org: &str, number: i64) -> Vec<String> {
    let mut db = stack.database(service).await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'control'::regnamespace AND relkind = 'r'",
    )
    .fetch_all(&mut db)
    .await
    .unwrap();
    let mut found = Vec::new();
    for table in tables {
        let sql =
            format!("SELECT count(*) FROM control.{table} t WHERE to_jsonb(t)::text LIKE '%' || $1 || '%'");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).bind(org).fetch_one(&mut db).await.unwrap();
        let number_rows: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
            "SELECT count(*) FROM control.{table} t WHERE to_jsonb(t) ->> 'tenant_number' = $1"
        )))
        .bind(number.to_string())
        .fetch_one(&mut db)
        .await
        .unwrap();
        if rows + number_rows > 0 {
            found.push(format!("control.{table}"));
        }
    }
    // Whether the role is there does not say much here: clones of one template share roles. `nitejar-db`'s tests look at it.
    let there: bool = sqlx::query_scalar("SELECT to_regnamespace('t_' || $1) IS NOT NULL")
        .bind(number.to_string())
        .fetch_one(&mut db)
        .await
        .unwrap();
    if there {
        found.push(format!("t_{number}"));
    }
    found.sort();
    found
}

async fn number(stack: &TestStack, service: &str, org: &str) -> i64 {
    let mut db = stack.database(service).await.unwrap();
    sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
        .bind(org)
        .fetch_one(&mut db)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_organization_leaves_nothing_but_its_receipt() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (w, neighbour) = (World::new(&stack).await, World::new(&stack).await);
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", w.org);
    let life = format!("/v1/operator/orgs/{}", w.org);
    let slug = text(&w.owner.get(&at("")).await.unwrap(), "slug");
    let (admin, _) = join(&operator, &w.owner, &w.org, "admin").await;
    let mut numbers = Vec::new();
    for service in ["tenancy", "sprites", "billing", "audit"] {
        numbers.push((service, number(&stack, service, &w.org).await));
    }
    // Not by mistake, and by owners only.
    let wrong = w.owner.call(Method::DELETE, &at("?slug=other"), None).await.unwrap();
    assert_eq!((wrong.status, text(&wrong.body, "code")), (400, "invalid_argument".into()));
    let not_theirs = admin.call(Method::DELETE, &at(&format!("?slug={slug}")), None).await.unwrap();
    assert_eq!((not_theirs.status, &not_theirs.body["permission"]), (403, &json!("org.delete")));
    let deleting = w.owner.delete(&at(&format!("?slug={slug}"))).await.unwrap();
    assert_eq!((&deleting["state"], &deleting["deletion"]["held"]), (&json!("deleting"), &json!(false)));
    let again = w.owner.delete(&at(&format!("?slug={slug}"))).await.unwrap();
    assert_eq!(again["deletion"], deleting["deletion"], "asked twice, the time stays");
    refuses(&w.owner, Method::PATCH, &at(""), json!({ "name": "No" }), "org_deleting").await;
    let owner_address = text(&w.owner.get("/v1/me").await.unwrap(), "email");
    // After the request of support that every world has.
    let told = mail(&stack, &owner_address, 2).await;
    assert!(
        told.subject.contains("will be deleted") && told.text.contains("nitejar orgs restore"),
        "{told:?}"
    );

    // Thirty days go by; but there is a hold.
    operator.put(&format!("{life}/legal-hold"), &json!({ "reason": "case 1" })).await.unwrap();
    let mut db = stack.database("tenancy").await.unwrap();
    sqlx::query("UPDATE control.orgs SET purge_after = now() - interval '1 s' WHERE id = $1")
        .bind(&w.org)
        .execute(&mut db)
        .await
        .unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let held = operator.get(&life).await.unwrap();
    assert_eq!(
        (&held["state"], &held["purge_waits"]),
        (&json!("deleting"), &json!("A legal hold keeps it."))
    );
    let shown = w.owner.get(&at("")).await.unwrap();
    assert_eq!(shown["deletion"]["held"], true);
    assert!(!shown.to_string().contains("case 1"), "the owners do not learn why");
    let before = neighbour.snapshot().await;
    operator.delete(&format!("{life}/legal-hold")).await.unwrap();
    operator.until(&life, 60, "the purge", |v| v["state"] == "purged").await.unwrap();

    // Nothing is left, whoever asks, and whatever is looked into.
    assert_eq!(w.owner.call(Method::GET, &at(""), None).await.unwrap().status, 404);
    assert_eq!(w.owner.get("/v1/orgs").await.unwrap()["orgs"], json!([]));
    let runner = operator.with_key(&w.runner);
    let claim = json!({ "wait_seconds": 0, "max_jobs": 1 });
    assert_eq!(refused(&runner, Method::POST, "/v1/runner/jobs:claim", claim).await.0, 401);
    for (service, number) in numbers {
        let mut kept = vec!["control.tenants"];
        if service == "tenancy" {
            kept.extend(["control.orgs", "control.purge_receipts", "control.slugs"]);
            kept.sort_unstable();
        }
        assert_eq!(traces(&stack, service, &w.org, number).await, kept, "{service}");
    }
    let left: Vec<_> = std::fs::read_dir(&stack.places.sprites).unwrap().collect();
    assert_eq!(left.len(), 1, "the neighbour's Sprite alone is there: {left:?}");
    assert_eq!(neighbour.snapshot().await, before);
    let made = json!({ "slug": slug, "name": "squatter" });
    assert_eq!(
        refused(&neighbour.owner, Method::POST, "/v1/orgs", made).await,
        (409, "already_exists".into())
    );
    operator.post(&format!("{life}:suspend"), &json!({ "reason": "x" })).await.unwrap_err();

    receipt_holds(&stack, &w, &owner_address, &slug).await;
    // An admin is no owner, a neighbour neither.
    for client in [&admin, &neighbour.owner] {
        let path = format!("/v1/purge-receipts/{}", w.org);
        assert_eq!(client.call(Method::GET, &path, None).await.unwrap().status, 404);
    }
    let done = |v: &Value| {
        v["events"].as_array().is_some_and(|l| l.iter().any(|e| e["target_id"] == w.org.as_str()))
    };
    let log = "/v1/operator/audit-events?action=org.purged&page_size=500";
    operator.until(log, 10, "the platform's event", done).await.unwrap();
    stack.stop().await.unwrap();
}

/// The receipt tells what was there; our program and openssl find it signed, and not when a character differs.
async fn receipt_holds(stack: &TestStack, w: &World, address: &str, slug: &str) {
    let receipt = w.owner.get(&format!("/v1/purge-receipts/{}", w.org)).await.unwrap();
    let keys = w.owner.with_key("").get("/v1/receipt-keys").await.unwrap();
    let said: Value = serde_json::from_str(&text(&receipt, "payload")).unwrap();
    assert_eq!((text(&said, "slug").as_str(), text(&said, "org_id")), (slug, w.org.clone()));
    let rows = |service: &str, table: &str| {
        let store = said["deleted"].as_array().unwrap().iter().find(|s| s["service"] == service).unwrap();
        store["tables"].as_array().unwrap().iter().find(|t| t["name"] == table).unwrap()["rows"]
            .as_i64()
            .unwrap()
    };
    assert_eq!(rows("tenancy", "members"), 3);
    assert_eq!(rows("tenancy", "control.memberships"), 3);
    assert_eq!(
        (rows("tenancy", "secrets"), rows("sprites", "agents"), rows("sprites", "control.sprites")),
        (1, 1, 0)
    );
    assert!(
        rows("sprites", "jobs") > 0 && rows("billing", "ledger") > 0 && rows("audit", "events") > 10,
        "{said}"
    );
    assert!(said["kept"].as_array().unwrap().len() > 3 && said["backups_expire_at"].is_string(), "{said}");
    let mailed = mail(stack, address, 2).await;
    assert!(
        mailed.subject.contains("has been deleted") && mailed.text.contains(&text(&receipt, "signature")),
        "{mailed:?}"
    );

    let dir = stack.dir.path();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
    write("receipt.json", receipt.to_string().as_bytes());
    write("keys.json", keys.to_string().as_bytes());
    let mut changed = receipt.clone();
    changed["payload"] = text(&receipt, "payload").replacen("\"rows\":", "\"rows\":1", 1).into();
    write("changed.json", changed.to_string().as_bytes());
    let verify = |file: &str| {
        let program = target_dir().unwrap().join("nitejar");
        let output = Command::new(program)
            .args([
                "--table",
                "--url",
                "http://127.0.0.1:1",
                "receipt",
                "verify",
                file,
                "--keys",
                "keys.json",
            ])
            .current_dir(dir)
            .env("HOME", dir)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (good, said) = verify("receipt.json");
    assert!(good && said.contains(&format!("Valid. {slug}")), "{said}");
    assert!(!verify("changed.json").0);
    // An independent judge. The key's DER is a fixed head and the 32 bytes.
    let decode = |v: &Value| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.decode(v.as_str().unwrap()).unwrap()
    };
    let head = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    write("key.der", &[head.as_slice(), &decode(&keys["keys"][0]["public_key"])].concat());
    write("signature", &decode(&receipt["signature"]));
    for (payload, good) in [(&receipt["payload"], true), (&changed["payload"], false)] {
        write("payload", payload.as_str().unwrap().as_bytes());
        let output = Command::new("openssl")
            .args([
                "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "key.der", "-rawin", "-in",
                "payload",
            ])
            .args(["-sigfile", "signature"])
            .current_dir(dir)
            .output()
            .unwrap();
        assert_eq!(output.status.success(), good, "{output:?}");
    }
}

/// A shared table that the service forgot to name would keep a purged organization's rows.
#[tokio::test]
async fn every_shared_table_is_named_by_its_service() {
    for (schema, kept) in [
        (nitejar_tenancy::SCHEMA, &["slugs", "purge_receipts"][..]),
        (nitejar_sprites::SCHEMA, &[]),
        (nitejar_billing::SCHEMA, &[]),
        (nitejar_audit::SCHEMA, &[]),
    ] {
        let database = nitejar_db::testing::database(schema).await.unwrap();
        use sqlx::Connection as _;
        let mut db = sqlx::PgConnection::connect(&database.handle.url).await.unwrap();
        let found: Vec<(String, String)> = sqlx::query_as(
            "SELECT table_name::text, column_name::text FROM information_schema.columns \
             WHERE table_schema = 'control' AND column_name IN ('org_id', 'tenant_number') AND table_name <> 'tenants' ORDER BY 1",
        )
        .fetch_all(&mut db)
        .await
        .unwrap();
        let mut unnamed: Vec<String> = found.into_iter().map(|(table, _)| table).collect();
        unnamed.dedup();
        unnamed.retain(|table| {
            // Where a purged one's row is, which says what was deleted.
            !["outbox_due", "placements"].contains(&table.as_str())
                && !kept.contains(&table.as_str())
                && !schema.shared.iter().any(|s| s.table == table)
        });
        assert!(unnamed.is_empty(), "{}: {unnamed:?}", schema.service);
    }
}

//! The whole story over HTTP: from nothing to a comment on a GitHub issue, counted and audited.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Client, text};

/// Flags of `demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The data directory of the running `up`.
    #[arg(long, env = "NITEJAR_DATA_DIR", default_value = ".nitejar", value_name = "DIR")]
    pub data: PathBuf,
    /// Instead: a gateway elsewhere. Then also --github, and the operator's key in the environment.
    #[arg(long, requires = "github", requires = "operator_key", value_name = "URL")]
    pub gateway: Option<String>,
    /// Its fake GitHub.
    #[arg(long, value_name = "URL")]
    pub github: Option<String>,
    /// An operator's key, `njo_…`.
    #[arg(long, env = "OPERATOR_KEY", hide_env_values = true, value_name = "KEY")]
    pub operator_key: Option<String>,
}

/// Where a stack is.
#[derive(Clone, Debug)]
pub struct Target {
    /// The gateway.
    pub gateway: String,
    /// The fake GitHub.
    pub github: String,
    /// `njo_…`
    pub operator_key: String,
}

struct Steps {
    number: u32,
    colour: bool,
}

impl Steps {
    /// One step: what it does, what it proves, how long it took.
    async fn step<T>(
        &mut self,
        what: &str,
        proves: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.number += 1;
        let began = Instant::now();
        let result = work.await;
        let millis = began.elapsed().as_secs_f64() * 1000.0;
        let (mark, paint) = if result.is_ok() { ("ok", "\x1b[32m") } else { ("FAILED", "\x1b[31m") };
        let mark = if self.colour { format!("{paint}{mark}\x1b[0m") } else { mark.to_owned() };
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{:>2}. {what} … {mark} ({millis:.0} ms)\n      {proves}", self.number);
        result.with_context(|| format!("step {}: {what}", self.number))
    }
}

/// Finds the running `up` and tells the story.
pub async fn run(args: Args) -> Result<()> {
    if let (Some(gateway), Some(github), Some(operator_key)) = (args.gateway, args.github, args.operator_key)
    {
        let steps = story(&Target { gateway, github, operator_key }).await?;
        let _ = writeln!(std::io::stdout(), "\nevery step passed ({steps})");
        return Ok(());
    }
    let path = args.data.join(crate::up::RUNNING);
    let running = std::fs::read_to_string(&path)
        .with_context(|| format!("{} is not there: start `cargo xtask up` first", path.display()))?;
    let running: Value = serde_json::from_str(&running)?;
    let target = Target {
        gateway: text(&running, "gateway"),
        github: text(&running, "github"),
        operator_key: text(&running, "operator_key"),
    };
    let steps = story(&target).await?;
    let _ = writeln!(std::io::stdout(), "\nevery step passed ({steps})");
    Ok(())
}

/// The story; answers how many steps it had.
pub async fn story(target: &Target) -> Result<u32> {
    let mut s = Steps {
        number: 0,
        colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    let tag = hex::encode(nitejar_common::rng::bytes::<4>());
    let operator = Client::new(&target.gateway, &target.operator_key)?;
    let github = Client::new(&target.github, "")?;

    let (ada, ada_user) = s
        .step(
            "an operator registers Ada and gives her a key",
            "users, personal API keys; the key is shown once",
            async {
                let user = json!({ "email": format!("ada-{tag}@example.com"), "name": "Ada" });
                let user = operator.post("/v1/operator/users", &user).await?;
                let path = format!("/v1/operator/users/{}/keys", text(&user, "id"));
                let key = operator.post(&path, &json!({ "name": "demo" })).await?;
                let ada = operator.with_key(&text(&key, "secret"));
                ensure!(text(&ada.get("/v1/me").await?, "id") == text(&user, "id"), "the key is not hers");
                Ok((ada, text(&user, "id")))
            },
        )
        .await?;

    let org = s
        .step("Ada creates an organization", "a schema and a role of its own in four databases", async {
            let org = ada.post("/v1/orgs", &json!({ "slug": format!("acme-{tag}"), "name": "Acme" })).await?;
            ensure!(text(&org, "state") == "active" && text(&org, "my_role") == "owner", "{org}");
            Ok(text(&org, "id"))
        })
        .await?;
    let at = |rest: &str| format!("/v1/orgs/{org}{rest}");

    s.step(
        "she changes its settings, with an ETag",
        "optimistic locking: an old ETag is refused with 412",
        async {
            let path = at("");
            let read = ada.call(Method::GET, &path, None).await?;
            let etag = read.headers.get("etag").and_then(|v| v.to_str().ok()).context("no ETag")?.to_owned();
            let change = json!({ "settings": { "timezone": "Europe/Berlin" } });
            let request = || ada.request(Method::PATCH, &path).header("If-Match", &etag).json(&change);
            let first = Client::send(request()).await?;
            ensure!(
                first.status == 200 && first.body["settings"]["timezone"] == "Europe/Berlin",
                "{}",
                first.body
            );
            let second = Client::send(request()).await?;
            ensure!(second.status == 412 && second.body["code"] == "etag_mismatch", "{}", second.body);
            Ok(())
        },
    )
    .await?;

    s.step("Bob is invited and joins as a member", "invitations: once, to the invited address", async {
        let email = format!("bob-{tag}@example.com");
        let invited = ada.post(&at("/invitations"), &json!({ "email": email, "role": "member" })).await?;
        let user = operator.post("/v1/operator/users", &json!({ "email": email, "name": "Bob" })).await?;
        let path = format!("/v1/operator/users/{}/keys", text(&user, "id"));
        let key = operator.post(&path, &json!({ "name": "demo" })).await?;
        let bob = operator.with_key(&text(&key, "secret"));
        bob.post("/v1/invitations:accept", &json!({ "token": text(&invited, "token") })).await?;
        let refused = bob.call(Method::POST, &at("/agents"), Some(&json!({ "handle": "bobs" }))).await?;
        ensure!(refused.status == 403 && refused.body["permission"] == "agents.write", "{}", refused.body);
        Ok(())
    })
    .await?;

    let secret = format!("s3cr3t-{tag}-value");
    let agent = s
        .step("she keeps a secret and creates an agent", "the agents limit is reserved, a Sprite is provisioned", async {
            ada.put(&at("/secrets/DEPLOY_TOKEN"), &json!({ "value": secret })).await?;
            let command = "echo \"token is $DEPLOY_TOKEN\"; grep -o '\"title\":\"[^\"]*\"' \"$NITEJAR_WORK_ITEM\"; \
                echo 'I looked at it and fixed it.' > \"$NITEJAR_RESULT\"";
            let config = json!({ "command": command, "secrets": ["DEPLOY_TOKEN"], "on_mention": true, "labels": ["fix-me"] });
            let agent = ada.post(&at("/agents"), &json!({ "handle": "fixer", "config": config })).await?;
            let second = ada.call(Method::POST, &at("/agents"), Some(&json!({ "handle": "second" }))).await?;
            ensure!(second.status == 402 && second.body["code"] == "agents_limit", "{}", second.body);
            Ok(text(&agent, "id"))
        })
        .await?;

    let repository = format!("acme-{tag}/site");
    let installation = s
        .step(
            "she connects GitHub",
            "the install is proved by her own GitHub account, and bound to one organization",
            async {
                let started = ada.post(&at("/integrations:startGithubInstall"), &json!({})).await?;
                let url = text(&started, "url");
                let state = url.split("state=").nth(1).context("no state in the address")?.to_owned();
                let wish = json!({ "account": format!("acme-{tag}"), "repositories": [repository] });
                let installed = github.post("/_fake/installations", &wish).await?;
                let id = installed["installation_id"].as_u64().context("no installation")?;
                let forged = format!(
                    "/v1/github/setup?installation_id=1&code={}&state=forged",
                    text(&installed, "code")
                );
                ensure!(
                    ada.call(Method::GET, &forged, None).await?.status == 409,
                    "a forged state was taken"
                );
                let back = format!(
                    "/v1/github/setup?installation_id={id}&code={}&state={state}",
                    text(&installed, "code")
                );
                let integration = ada.get(&back).await?;
                ensure!(integration["installation_id"] == id, "{integration}");
                Ok(id)
            },
        )
        .await?;

    let (job, number) = s
        .step("somebody opens an issue that mentions @fixer", "a real GitHub payload, signed, becomes a work item and a job", async {
            let wish = json!({
                "installation_id": installation, "repository": repository, "title": "The button is broken",
                "body": "Please have a look, @fixer", "labels": ["fix-me"],
            });
            let delivered = github.post("/_fake/issues", &wish).await?;
            ensure!(delivered["status"] == 202, "{delivered}");
            let found = ada
                .until(&at("/work-items"), 20, "the work item", |v| v["work_items"].as_array().is_some_and(|l| !l.is_empty()))
                .await?;
            let item = &found["work_items"][0];
            ensure!(text(item, "event") == "issues.opened", "{item}");
            Ok((item["job_ids"][0].as_str().context("no job")?.to_owned(), delivered["number"].clone()))
        })
        .await?;

    s.step("the job runs in the agent's Sprite", "woken on demand, leased, fenced, completed", async {
        let path = at(&format!("/jobs/{job}"));
        let done = ada
            .until(&path, 60, "the job's end", |v| !matches!(v["state"].as_str(), Some("queued" | "running")))
            .await?;
        ensure!(text(&done, "state") == "completed", "{done}");
        ensure!(text(&done, "output").trim() == "I looked at it and fixed it.", "{done}");
        Ok(())
    })
    .await?;

    s.step("its output is there, without the secret", "live log stream; secrets are masked", async {
        let path = at(&format!("/jobs/{job}/logs?follow=true"));
        let stream = ada.call(Method::GET, &path, None).await?;
        let output = stream.body.as_str().unwrap_or_default().to_owned();
        ensure!(output.contains("token is ***") && output.contains("The button is broken"), "{output}");
        ensure!(!output.contains(&secret), "the secret is in the log");
        Ok(())
    })
    .await?;

    s.step("the reply is a comment on the issue, once", "an outbox with an idempotency marker", async {
        let state = github
            .until("/_fake/state", 20, "the comment", |v| {
                v["issues"][&repository][number.to_string()].as_array().is_some_and(|l| !l.is_empty())
            })
            .await?;
        let comments =
            state["issues"][&repository][number.to_string()].as_array().cloned().unwrap_or_default();
        ensure!(comments.len() == 1, "{comments:?}");
        ensure!(text(&comments[0], "body").starts_with("I looked at it and fixed it."), "{comments:?}");
        Ok(())
    })
    .await?;

    s.step("one job is counted", "a reservation that was committed; the ledger names the job", async {
        let job_meter =
            |v: &Value| v["meters"].as_array().and_then(|m| m.iter().find(|m| m["meter"] == "jobs").cloned());
        ada.until(&at("/usage"), 20, "the count", |v| {
            job_meter(v).is_some_and(|m| m["used"] == 1 && m["reserved"] == 0 && m["limit"] == 100)
        })
        .await?;
        let entries = ada.get(&at("/usage/entries?meter=jobs")).await?;
        ensure!(entries["entries"][0]["key"] == job.as_str(), "{entries}");
        Ok(())
    })
    .await?;

    s.step(
        "the organization is upgraded and gets a second agent",
        "plans are data; the limit follows at once",
        async {
            operator
                .put(&format!("/v1/operator/orgs/{org}/subscription"), &json!({ "plan": "team" }))
                .await?;
            ada.post(&at("/agents"), &json!({ "handle": "second" })).await?;
            Ok(())
        },
    )
    .await?;

    s.step("a stranger sees nothing", "another tenant's things are 404, and the refusal is audited", async {
        let user = json!({ "email": format!("eve-{tag}@example.com"), "name": "Eve" });
        let user = operator.post("/v1/operator/users", &user).await?;
        let path = format!("/v1/operator/users/{}/keys", text(&user, "id"));
        let key = operator.post(&path, &json!({ "name": "demo" })).await?;
        let eve = operator.with_key(&text(&key, "secret"));
        for path in [at(""), at("/members"), at(&format!("/agents/{agent}")), at(&format!("/jobs/{job}"))] {
            let refused = eve.call(Method::GET, &path, None).await?;
            ensure!(refused.status == 404 && refused.body["code"] == "not_found", "{path}: {}", refused.body);
        }
        Ok(())
    })
    .await?;

    s.step(
        "the audit log tells the story and holds",
        "one chain of hashes, verified by the server and by a separate program",
        async {
            let wanted = [
                "org.created",
                "agent.created",
                "integration.created",
                "work_item.created",
                "job.finished",
                "subscription.plan_changed",
                "access.denied",
            ];
            let path = at("/audit-events?page_size=500");
            let page = ada
                .until(&path, 30, "the events", |v| {
                    let events = v["events"].as_array().cloned().unwrap_or_default();
                    wanted.iter().all(|w| events.iter().any(|e| e["action"] == *w))
                })
                .await?;
            ensure!(!page.to_string().contains(&secret), "the secret is in the audit log");
            let verdict = ada.get(&at("/audit-events:verify")).await?;
            ensure!(verdict["valid"] == true, "{verdict}");
            let verifier = crate::up::binaries()?.join("nitejar-audit-verify");
            if verifier.exists() {
                let page = ada.get(&path).await?;
                let file = tempfile::NamedTempFile::new()?;
                std::fs::write(file.path(), page.to_string())?;
                let output = tokio::process::Command::new(&verifier).arg(file.path()).output().await?;
                ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
            Ok(())
        },
    )
    .await?;

    s.step("the agent is deleted", "its Sprite is reclaimed, its slot is free again", async {
        ada.delete(&at(&format!("/agents/{agent}"))).await?;
        ada.until(&at("/agents"), 20, "one agent", |v| v["agents"].as_array().is_some_and(|l| l.len() == 1))
            .await?;
        ada.until(&at("/usage"), 20, "one agent in use", |v| {
            v["meters"].as_array().is_some_and(|m| m.iter().any(|m| m["meter"] == "agents" && m["used"] == 1))
        })
        .await?;
        let leave = ada.call(Method::POST, &at(":leave"), Some(&json!({}))).await?;
        ensure!(leave.body["code"] == "last_owner", "{ada_user} left: {}", leave.body);
        Ok(())
    })
    .await?;
    Ok(s.number)
}

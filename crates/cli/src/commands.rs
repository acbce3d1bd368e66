//! The commands.

mod domains;
mod export;
mod receipt;
mod roles;
mod session;
mod support;
mod work;

use reqwest::Method;
use serde_json::{Value, json};

use crate::api::{Api, part};
use crate::args::{Audit, Cli, Command, Keys, Members, Orgs, Receipt, Secrets};
use crate::config::Config;
use crate::failure::{Failure, Result};
use crate::output::{Shape, line};

/// Unless told otherwise.
const URL: &str = "https://cloud.nitejar.dev";
/// As good as all.
const ALL: usize = 10_000;

/// Runs one.
pub async fn run(cli: Cli) -> Result<()> {
    let config = Config::load()?;
    let kept = Some(config.url.clone()).filter(|url| !url.is_empty());
    let url = cli.url.clone().or(kept).unwrap_or_else(|| URL.to_owned());
    let shape = Shape::of(cli.json, cli.table);
    match cli.command {
        Command::Login { email, key_stdin } => {
            return session::login(config, &url, email, key_stdin, shape).await;
        }
        Command::Logout => return session::logout(config, &url, shape).await,
        Command::Receipt(Receipt::Verify { file, keys }) => {
            return receipt::verify(&url, &file, keys.as_deref(), shape).await;
        }
        _ => {}
    }
    let key = std::env::var("NITEJAR_API_KEY").ok().filter(|key| !key.is_empty());
    // The key that is kept is for the place that it was made at, and goes nowhere else.
    let kept = if url == config.url { config.key.clone() } else { String::new() };
    let key = key.unwrap_or(kept);
    if key.is_empty() {
        return Err(Failure::signed_out());
    }
    let here = Here { api: Api::new(&url, &key)?, org: cli.org.unwrap_or_else(|| config.org.clone()), shape };
    match cli.command {
        Command::Me => here.me().await,
        Command::Orgs(orgs) => here.orgs(orgs, config).await,
        Command::Members(members) => here.members(members).await,
        Command::Roles(roles) => here.roles(roles).await,
        Command::Domains(domains) => here.domains(domains).await,
        Command::Support(support) => here.support(support).await,
        Command::Explain { actor, permission } => here.explain(&actor, &permission).await,
        Command::Agents(agents) => here.agents(agents).await,
        Command::Run { agent, title, body, follow } => here.give_work(&agent, &title, &body, follow).await,
        Command::Jobs(jobs) => here.jobs(jobs).await,
        Command::Secrets(secrets) => here.secrets(secrets).await,
        Command::Keys(keys) => here.keys(keys).await,
        Command::Usage => here.usage().await,
        Command::Audit(audit) => here.audit(audit).await,
        Command::ConnectGithub => here.connect_github().await,
        Command::Receipt(Receipt::Get { org }) => {
            let receipt = here.get(&format!("/v1/purge-receipts/{}", part(&org))).await?;
            line(&format!("{receipt:#}"))
        }
        Command::Login { .. } | Command::Logout | Command::Completions { .. } | Command::Receipt(_) => Ok(()),
    }
}

/// Where commands act.
struct Here {
    api: Api,
    /// Its id or slug; empty: the only one there is.
    org: String,
    shape: Shape,
}

impl Here {
    /// `/v1/orgs/{id}` and what follows.
    async fn at(&self, rest: &str) -> Result<String> {
        self.within(&self.org, rest).await
    }

    /// The same of another organization, by its id or slug.
    async fn within(&self, org: &str, rest: &str) -> Result<String> {
        if org.starts_with("org_") {
            return Ok(format!("/v1/orgs/{}{rest}", part(org)));
        }
        if !org.is_empty() {
            // Also by a slug that it had before.
            let found = self.get(&format!("/v1/orgs:lookup?slug={}", part(org))).await?;
            return Ok(format!("/v1/orgs/{}{rest}", found["org_id"].as_str().unwrap_or_default()));
        }
        let orgs = self.api.list("/v1/orgs?page_size=100", "orgs", ALL).await?;
        match orgs.as_slice() {
            [one] => Ok(format!("/v1/orgs/{}{rest}", one["id"].as_str().unwrap_or_default())),
            [] => Err(Failure::new("You are in no organization. Make one: nitejar orgs create SLUG")),
            _ => Err(Failure::new("Which organization? Give --org, or say it once: nitejar orgs use SLUG")),
        }
    }

    async fn get(&self, path: &str) -> Result<Value> {
        self.api.call(Method::GET, path, None).await
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value> {
        self.api.call(Method::POST, path, Some(&body)).await
    }

    async fn delete(&self, path: &str, what: &str) -> Result<()> {
        let answer = self.api.call(Method::DELETE, path, None).await?;
        self.shape.done(what, &answer)
    }

    async fn me(&self) -> Result<()> {
        self.shape.one(&self.get("/v1/me").await?, &[("name", "name"), ("email", "email"), ("id", "id")])
    }

    async fn orgs(&self, orgs: Orgs, mut config: Config) -> Result<()> {
        match orgs {
            Orgs::List => {
                let list = self.api.list("/v1/orgs?page_size=100", "orgs", ALL).await?;
                self.shape.list(
                    &list,
                    &[
                        ("SLUG", "slug"),
                        ("NAME", "name"),
                        ("ROLE", "my_role"),
                        ("STATE", "state"),
                        ("ID", "id"),
                    ],
                )
            }
            Orgs::Create { slug, name } => {
                let name = name.unwrap_or_else(|| slug.clone());
                let org = self.post("/v1/orgs", json!({ "slug": slug, "name": name })).await?;
                self.shape.done(&format!("Made {slug}. Act there from now on: nitejar orgs use {slug}"), &org)
            }
            Orgs::Get => {
                let fields = [
                    ("slug", "slug"),
                    ("name", "name"),
                    ("state", "state"),
                    ("role", "my_role"),
                    ("time zone", "settings.timezone"),
                    ("id", "id"),
                ];
                self.shape.one(&self.get(&self.at("").await?).await?, &fields)
            }
            Orgs::Rename { slug } => {
                let org = self.post(&self.at(":rename").await?, json!({ "slug": slug })).await?;
                self.shape.done(&format!("It is {slug} now. The old slug still leads to it."), &org)
            }
            Orgs::Delete { slug } => {
                let path = self.at(&format!("?slug={}", part(&slug))).await?;
                let org = self.api.call(Method::DELETE, &path, None).await?;
                let when = org["deletion"]["purge_after"].as_str().unwrap_or_default();
                self.shape.done(
                    &format!("{slug} will be deleted on {when}. Until then: nitejar orgs restore"),
                    &org,
                )
            }
            Orgs::Restore => {
                let org = self.post(&self.at(":restore").await?, json!({})).await?;
                self.shape.done("It is kept.", &org)
            }
            Orgs::Export { to, id } => self.export(&to, id).await,
            Orgs::OfferOwnership { user } => {
                let offer =
                    self.post(&self.at("/ownership-offer").await?, json!({ "user_id": user })).await?;
                self.shape.done(&format!("Offered to {user}, for 7 days."), &offer)
            }
            Orgs::AcceptOwnership => {
                let done = self.post(&self.at("/ownership-offer:accept").await?, json!({})).await?;
                self.shape.done("You own it now.", &done)
            }
            Orgs::Use { org } => {
                let found = self.get(&self.within(&org, "").await?).await?;
                config.org = found["id"].as_str().unwrap_or_default().to_owned();
                config.save()?;
                self.shape.done(&format!("Commands act in {org} from now on."), &found)
            }
        }
    }

    async fn members(&self, members: Members) -> Result<()> {
        match members {
            Members::List => {
                let list = self.api.list(&self.at("/members").await?, "members", ALL).await?;
                self.shape
                    .list(&list, &[("NAME", "name"), ("EMAIL", "email"), ("ROLE", "role"), ("ID", "user_id")])
            }
            Members::Invite { email, role } => {
                let invited = self
                    .post(&self.at("/invitations").await?, json!({ "email": email, "role": role }))
                    .await?;
                let token = invited["token"].as_str().unwrap_or_default();
                self.shape.done(&format!("{email} accepts with this token, within 7 days: {token}"), &invited)
            }
            Members::Import { file } => {
                let csv = match file.as_os_str() == "-" {
                    true => std::io::read_to_string(std::io::stdin()),
                    false => std::fs::read_to_string(&file),
                };
                let csv = csv.map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
                let done = self.post(&self.at("/invitations:import").await?, json!({ "csv": csv })).await?;
                let rows = done["rows"].as_array().cloned().unwrap_or_default();
                let columns =
                    [("LINE", "line"), ("EMAIL", "email"), ("OUTCOME", "outcome"), ("DETAIL", "detail")];
                self.shape.list(&rows, &columns)
            }
            Members::SetCustomRoles { user, roles } => {
                let path = self.at(&format!("/members/{}/roles", part(&user))).await?;
                let set = self.api.call(Method::PUT, &path, Some(&json!({ "role_ids": roles }))).await?;
                self.shape.done(&format!("{user} has {} custom roles now.", roles.len()), &set)
            }
            Members::Accept => {
                let token = session::read_line("The invitation's token: ")?;
                let joined = self.post("/v1/invitations:accept", json!({ "token": token })).await?;
                self.shape.done("Joined.", &joined)
            }
            Members::SetRole { user, role } => {
                let path = self.at(&format!("/members/{}", part(&user))).await?;
                let member = self.api.call(Method::PATCH, &path, Some(&json!({ "role": role }))).await?;
                self.shape.done(&format!("{user} is {role} now."), &member)
            }
            Members::Remove { user } => {
                self.delete(&self.at(&format!("/members/{}", part(&user))).await?, "Removed.").await
            }
        }
    }

    async fn secrets(&self, secrets: Secrets) -> Result<()> {
        match secrets {
            Secrets::List => {
                let list = self.api.list(&self.at("/secrets").await?, "secrets", ALL).await?;
                self.shape.list(
                    &list,
                    &[
                        ("NAME", "name"),
                        ("VERSION", "version"),
                        ("CHANGED", "updated_at"),
                        ("BY", "updated_by"),
                    ],
                )
            }
            Secrets::Set { name } => {
                let value = session::read_line(&format!("The value of {name}: "))?;
                let path = self.at(&format!("/secrets/{}", part(&name))).await?;
                let kept = self.api.call(Method::PUT, &path, Some(&json!({ "value": value }))).await?;
                self.shape.done(&format!("Kept {name}."), &kept)
            }
            Secrets::Delete { name } => {
                self.delete(&self.at(&format!("/secrets/{}", part(&name))).await?, "Deleted.").await
            }
        }
    }

    async fn keys(&self, keys: Keys) -> Result<()> {
        match keys {
            Keys::List => {
                let list = self.api.list(&self.at("/keys").await?, "keys", ALL).await?;
                let columns = [
                    ("NAME", "name"),
                    ("BEGINS", "prefix"),
                    ("ROLE", "role"),
                    ("LAST USED", "last_used_at"),
                    ("REVOKED", "revoked_at"),
                    ("ID", "id"),
                ];
                self.shape.list(&list, &columns)
            }
            Keys::Create { name, role } => {
                let key = self.post(&self.at("/keys").await?, json!({ "name": name, "role": role })).await?;
                let secret = key["secret"].as_str().unwrap_or_default();
                self.shape.done(&format!("The key, which is shown only now: {secret}"), &key)
            }
            Keys::Revoke { key } => {
                self.delete(&self.at(&format!("/keys/{}", part(&key))).await?, "Revoked.").await
            }
        }
    }

    async fn usage(&self) -> Result<()> {
        let usage = self.get(&self.at("/usage").await?).await?;
        if self.shape == Shape::Json {
            return self.shape.one(&usage, &[]);
        }
        let meters = usage["meters"].as_array().cloned().unwrap_or_default();
        self.shape.list(
            &meters,
            &[("METER", "meter"), ("USED", "used"), ("RESERVED", "reserved"), ("LIMIT", "limit")],
        )
    }

    async fn audit(&self, audit: Audit) -> Result<()> {
        match audit {
            Audit::List { limit, action } => {
                let path = self.at(&format!("/audit-events?page_size=500&action={}", part(&action))).await?;
                let events = self.api.list(&path, "events", limit).await?;
                let columns = [
                    ("AT", "occurred_at"),
                    ("ACTION", "action"),
                    ("BY", "actor_id"),
                    ("ON", "target_id"),
                    ("OUTCOME", "outcome"),
                ];
                self.shape.list(&events, &columns)
            }
            Audit::Verify => {
                let verdict = self.get(&self.at("/audit-events:verify").await?).await?;
                if verdict["valid"] == true {
                    return self.shape.done("The chain holds.", &verdict);
                }
                line(&verdict.to_string())?;
                Err(Failure::new(format!("The chain is broken at event {}.", verdict["broken_at"])))
            }
        }
    }

    async fn connect_github(&self) -> Result<()> {
        let started = self.post(&self.at("/integrations:startGithubInstall").await?, json!({})).await?;
        let url = started["url"].as_str().unwrap_or_default();
        self.shape.done(&format!("Open this in your browser within 15 minutes:\n{url}"), &started)
    }
}

//! Agents, their work, and what it says.

use std::io::Write as _;

use reqwest::Method;
use serde_json::{Value, json};

use super::{ALL, Here};
use crate::api::part;
use crate::args::{Agents, Jobs};
use crate::failure::{Failure, Result};
use crate::output::{Column, Shape, aside, line};

const AGENT: &[Column] =
    &[("HANDLE", "handle"), ("NAME", "name"), ("STATE", "state"), ("SPRITE", "sprite.state"), ("ID", "id")];
const JOB: &[Column] = &[
    ("ID", "id"),
    ("STATE", "state"),
    ("REASON", "reason"),
    ("ATTEMPTS", "attempts"),
    ("CREATED", "created_at"),
];

impl Here {
    /// `/v1/orgs/…/agents/{id}` of an id or handle.
    async fn agent(&self, agent: &str) -> Result<String> {
        if agent.starts_with("agent_") {
            return self.at(&format!("/agents/{}", part(agent))).await;
        }
        let path = self.at("/agents").await?;
        let agents = self.api.list(&path, "agents", ALL).await?;
        let handle = agent.trim_start_matches('@');
        let found = agents.iter().find(|a| a["handle"] == handle).and_then(|a| a["id"].as_str());
        found.map(|id| format!("{path}/{id}")).ok_or_else(|| {
            Failure::refused(
                404,
                &json!({ "detail": format!("There is no agent @{handle}. See: nitejar agents list") }),
            )
        })
    }

    pub(super) async fn agents(&self, agents: Agents) -> Result<()> {
        match agents {
            Agents::List => {
                self.shape.list(&self.api.list(&self.at("/agents").await?, "agents", ALL).await?, AGENT)
            }
            Agents::Get { agent } => {
                let fields = [
                    ("handle", "handle"),
                    ("name", "name"),
                    ("state", "state"),
                    ("sprite", "sprite.state"),
                    ("command", "config.command"),
                    ("labels", "config.labels"),
                    ("secrets", "config.secrets"),
                    ("id", "id"),
                ];
                self.shape.one(&self.get(&self.agent(&agent).await?).await?, &fields)
            }
            Agents::Create { handle, command, secrets, labels, on_mention } => {
                let config = json!({ "command": command, "secrets": secrets, "labels": labels, "on_mention": on_mention });
                let made = self
                    .post(&self.at("/agents").await?, json!({ "handle": handle, "config": config }))
                    .await?;
                self.shape.done(
                    &format!("Made @{handle}. Give it work: nitejar run {handle} TITLE --follow"),
                    &made,
                )
            }
            Agents::Pause { agent } => {
                let changed = self.post(&format!("{}:pause", self.agent(&agent).await?), json!({})).await?;
                self.shape.done("Paused.", &changed)
            }
            Agents::Resume { agent } => {
                let changed = self.post(&format!("{}:resume", self.agent(&agent).await?), json!({})).await?;
                self.shape.done("Resumed.", &changed)
            }
            Agents::Delete { agent } => self.delete(&self.agent(&agent).await?, "Deleted.").await,
        }
    }

    pub(super) async fn give_work(&self, agent: &str, title: &str, body: &str, follow: bool) -> Result<()> {
        let path = self.agent(agent).await?;
        let id = path.rsplit('/').next().unwrap_or_default();
        let wish = json!({ "agent_id": id, "title": title, "body": body });
        let item = self.post(&self.at("/work-items").await?, wish).await?;
        let job = item["job_ids"][0].as_str().unwrap_or_default().to_owned();
        if !follow {
            return self.shape.done(&format!("Job {job}. Watch it: nitejar jobs logs {job} --follow"), &item);
        }
        aside(&format!("Job {job}"));
        // A program gets the job's end as one JSON value.
        self.logs(&job, true, self.shape == Shape::Table).await?;
        let ended = self.get(&self.at(&format!("/jobs/{}", part(&job))).await?).await?;
        if self.shape == Shape::Json {
            self.shape.one(&ended, &[])?;
        } else if let Some(output) = ended["output"].as_str().filter(|o| !o.is_empty()) {
            line(output.trim_end())?;
        }
        match ended["state"].as_str() {
            Some("completed") => Ok(()),
            state => Err(Failure::job(format!(
                "The job is {}: {}",
                state.unwrap_or("?"),
                ended["reason"].as_str().unwrap_or_default()
            ))),
        }
    }

    pub(super) async fn jobs(&self, jobs: Jobs) -> Result<()> {
        match jobs {
            Jobs::List { limit, state } => {
                let path = self
                    .at(&format!("/jobs?page_size={}&state={}", limit.clamp(1, 500), part(&state)))
                    .await?;
                self.shape.list(&self.api.list(&path, "jobs", limit).await?, JOB)
            }
            Jobs::Get { job } => {
                let fields = [
                    ("id", "id"),
                    ("state", "state"),
                    ("reason", "reason"),
                    ("attempts", "attempts"),
                    ("exit code", "exit_code"),
                    ("output", "output"),
                    ("agent", "agent_id"),
                ];
                self.shape.one(&self.get(&self.at(&format!("/jobs/{}", part(&job))).await?).await?, &fields)
            }
            Jobs::Logs { job, follow } => self.logs(&job, follow, true).await,
            Jobs::Cancel { job } => {
                let path = self.at(&format!("/jobs/{}:cancel", part(&job))).await?;
                self.shape.done("Cancelled.", &self.api.call(Method::POST, &path, Some(&json!({}))).await?)
            }
            Jobs::Retry { job } => {
                let path = self.at(&format!("/jobs/{}:retry", part(&job))).await?;
                self.shape.done("Queued again.", &self.api.call(Method::POST, &path, Some(&json!({}))).await?)
            }
        }
    }

    /// Lines as they come: to a person as text, to a program as one JSON object a line.
    async fn logs(&self, job: &str, follow: bool, show: bool) -> Result<()> {
        let path = self.at(&format!("/jobs/{}/logs?follow={follow}", part(job))).await?;
        let shape = self.shape;
        self.api
            .events(&path, |entry: Value| {
                if !show {
                    return Ok(());
                }
                if shape == Shape::Json {
                    return line(&entry.to_string());
                }
                let text = entry["text"].as_str().unwrap_or_default();
                let plain: String = text.chars().filter(|c| !c.is_control() || *c == '\t').collect();
                if entry["stream"] == "stderr" {
                    writeln!(std::io::stderr(), "{plain}")?;
                    Ok(())
                } else {
                    line(&plain)
                }
            })
            .await
    }
}

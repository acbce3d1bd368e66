//! Driving the fake over HTTP.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;

use super::Shared;
use super::state::{Delivery, Fault, Installation};

/// A real payload of each kind.
const ISSUE_OPENED: &str = include_str!("payloads/issues.opened.json");
const COMMENT_CREATED: &str = include_str!("payloads/issue_comment.created.json");

type Answer = Result<Json<Value>, (StatusCode, String)>;

fn fail(error: impl std::fmt::Display) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, error.to_string())
}

#[derive(Deserialize)]
pub(super) struct Install {
    account: String,
    repositories: Vec<String>,
    #[serde(default)]
    user: String,
}

/// Installs the App, as a person would in a browser: answers the installation's number and the person's OAuth code.
pub(super) async fn install(State(shared): State<Shared>, Json(wish): Json<Install>) -> Answer {
    let mut state = shared.state();
    let id = state.id();
    let user = if wish.user.is_empty() { format!("{}-admin", wish.account) } else { wish.user };
    let mut repositories = BTreeMap::new();
    for name in wish.repositories {
        let number = state.id();
        state.issues.entry(name.clone()).or_default();
        repositories.insert(number, name);
    }
    let code = format!("code-{id}-{}", state.id());
    state.codes.insert(code.clone(), user.clone());
    state.installations.insert(id, Installation { account: wish.account, repositories, user });
    Ok(Json(json!({ "installation_id": id, "code": code, "setup_url": shared.config.setup_url })))
}

#[derive(Deserialize)]
pub(super) struct Deliver {
    event: String,
    payload: Value,
    /// The same id again is a replay.
    #[serde(default)]
    delivery_id: Option<String>,
    /// `right` unless said otherwise; `wrong`, `none`.
    #[serde(default)]
    signature: String,
}

/// Delivers any payload.
pub(super) async fn deliver(State(shared): State<Shared>, Json(wish): Json<Deliver>) -> Answer {
    send(&shared, &wish.event, &wish.payload, wish.delivery_id, &wish.signature).await
}

async fn send(shared: &Shared, event: &str, payload: &Value, id: Option<String>, signature: &str) -> Answer {
    let id = id.unwrap_or_else(|| {
        let n = shared.state().id();
        format!("{n:08x}-0000-4000-8000-{n:012x}")
    });
    let (status, answer) = attempt(shared, event, payload, &id, signature, false).await.map_err(fail)?;
    Ok(Json(json!({ "delivery_id": id, "status": status, "answer": answer })))
}

/// Sends a webhook once, as GitHub does, and remembers what came of it: (status, 0 when nobody answered; its body).
pub(super) async fn attempt(
    shared: &Shared,
    event: &str,
    payload: &Value,
    guid: &str,
    signature: &str,
    redelivery: bool,
) -> anyhow::Result<(u16, Value)> {
    let body = payload.to_string();
    let mut mac = Hmac::<Sha256>::new_from_slice(shared.config.webhook_secret.as_bytes())?;
    mac.update(body.as_bytes());
    if signature == "wrong" {
        mac.update(b"!");
    }
    let mut request = shared
        .http
        .post(&shared.config.webhook_url)
        .timeout(std::time::Duration::from_secs(10))
        .header("content-type", "application/json")
        .header("user-agent", "GitHub-Hookshot/fake")
        .header("x-github-event", event)
        .header("x-github-delivery", guid)
        .header("x-github-hook-installation-target-type", "integration")
        .header("x-github-hook-installation-target-id", shared.config.app_id.to_string());
    if signature != "none" {
        let hex = hex::encode(mac.finalize().into_bytes());
        request = request.header("x-hub-signature-256", format!("sha256={hex}"));
    }
    let lost = {
        let mut state = shared.state();
        let lost = state.lose > 0;
        state.lose = state.lose.saturating_sub(1);
        lost
    };
    let (status, answer) = if lost {
        (0, Value::Null)
    } else {
        match request.body(body).send().await {
            Ok(response) => (response.status().as_u16(), response.json().await.unwrap_or_default()),
            Err(_) => (0, Value::Null),
        }
    };
    // What an attacker sends is no delivery of GitHub's.
    if !matches!(signature, "wrong" | "none") {
        let mut state = shared.state();
        let delivery = Delivery {
            id: state.id(),
            guid: guid.to_owned(),
            event: event.to_owned(),
            payload: payload.clone(),
            status,
            at: super::api::now().to_rfc3339(),
            redelivery,
        };
        state.deliveries.push(delivery);
    }
    Ok((status, answer))
}

#[derive(Deserialize)]
pub(super) struct OpenIssue {
    installation_id: u64,
    repository: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    labels: Vec<String>,
}

/// Somebody opens an issue: it is there, and `issues.opened` is delivered with every field that the real one has.
pub(super) async fn open_issue(State(shared): State<Shared>, Json(wish): Json<OpenIssue>) -> Answer {
    let mut payload: Value = serde_json::from_str(ISSUE_OPENED).map_err(fail)?;
    let number = {
        let mut state = shared.state();
        let repository_id = place(&state.installations, wish.installation_id, &wish.repository)?;
        let id = state.id();
        let issues = state.issues.entry(wish.repository.clone()).or_default();
        let number = issues.keys().next_back().copied().unwrap_or(0) + 1;
        issues.entry(number).or_default();
        patch(&mut payload, wish.installation_id, repository_id, &wish.repository, number);
        payload["issue"]["id"] = id.into();
        payload["issue"]["title"] = wish.title.into();
        payload["issue"]["body"] = wish.body.into();
        payload["issue"]["labels"] = wish.labels.iter().map(|l| json!({ "id": 1, "name": l })).collect();
        number
    };
    let Json(mut answer) = send(&shared, "issues", &payload, None, "right").await?;
    answer["number"] = number.into();
    Ok(Json(answer))
}

#[derive(Deserialize)]
pub(super) struct NewComment {
    installation_id: u64,
    repository: String,
    number: u64,
    body: String,
}

/// Somebody comments on an issue.
pub(super) async fn comment(State(shared): State<Shared>, Json(wish): Json<NewComment>) -> Answer {
    let mut payload: Value = serde_json::from_str(COMMENT_CREATED).map_err(fail)?;
    {
        let mut state = shared.state();
        let repository_id = place(&state.installations, wish.installation_id, &wish.repository)?;
        let (id, issue_id) = (state.id(), state.id());
        state.issues.entry(wish.repository.clone()).or_default().entry(wish.number).or_default();
        patch(&mut payload, wish.installation_id, repository_id, &wish.repository, wish.number);
        payload["issue"]["id"] = issue_id.into();
        payload["comment"]["id"] = id.into();
        payload["comment"]["body"] = wish.body.into();
    }
    send(&shared, "issue_comment", &payload, None, "right").await
}

fn place(
    installations: &BTreeMap<u64, Installation>,
    installation: u64,
    repository: &str,
) -> Result<u64, (StatusCode, String)> {
    let found = installations.get(&installation).ok_or_else(|| fail("no such installation"))?;
    let id = found.repositories.iter().find(|(_, name)| *name == repository).map(|(id, _)| *id);
    id.ok_or_else(|| fail("the installation does not have this repository"))
}

fn patch(payload: &mut Value, installation: u64, repository_id: u64, repository: &str, number: u64) {
    payload["installation"] =
        json!({ "id": installation, "node_id": "MDIzOkludGVncmF0aW9uSW5zdGFsbGF0aW9uMQ==" });
    payload["repository"]["id"] = repository_id.into();
    payload["repository"]["full_name"] = repository.into();
    payload["issue"]["number"] = number.into();
    payload["sender"]["type"] = "User".into();
}

/// Has something go wrong.
pub(super) async fn fault(State(shared): State<Shared>, Json(fault): Json<Fault>) -> Json<Value> {
    shared.state().faults.push(fault);
    Json(json!({}))
}

/// A public key that reports of leaked secrets are signed with.
pub(super) async fn scanning_key(State(shared): State<Shared>, Json(key): Json<Value>) -> Json<Value> {
    shared.state().scanning_keys.push(key);
    Json(json!({}))
}

/// The next webhook does not arrive.
pub(super) async fn lose_next(State(shared): State<Shared>) -> Json<Value> {
    shared.state().lose += 1;
    Json(json!({}))
}

/// A whole repository as GitHub shows it, under another number and name.
pub(super) fn repository(id: u64, full_name: &str) -> Value {
    let payload: Value = serde_json::from_str(ISSUE_OPENED).unwrap_or_default();
    let mut repository = payload["repository"].clone();
    let (owner, name) = full_name.split_once('/').unwrap_or(("", full_name));
    repository["id"] = id.into();
    repository["full_name"] = full_name.into();
    repository["name"] = name.into();
    repository["owner"]["login"] = owner.into();
    repository
}

/// What there is.
pub(super) async fn show(State(shared): State<Shared>) -> Json<Value> {
    Json(shared.state().summary())
}

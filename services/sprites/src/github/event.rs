//! What a webhook means to us. Reads only what it needs, bounds all that it keeps.

use serde_json::Value;

use super::reply::Target;

/// A webhook, understood.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// Something that agents may take.
    Work(Box<Work>),
    /// The installation was deleted.
    Uninstalled,
    /// Suspended (true) or not any more.
    Suspended(bool),
    /// Its repositories changed: look again.
    Repositories,
    /// Nothing comes of it, and why.
    Ignored(&'static str),
}

/// Something that agents may take.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Work {
    /// `issues.opened`, …
    pub(crate) event: String,
    /// The same happening always has the same key, however often it is delivered.
    pub(crate) dedupe_key: String,
    /// `owner/repo#issue:12`
    pub(crate) session_key: String,
    /// One line.
    pub(crate) title: String,
    /// The text.
    pub(crate) body: String,
    /// GitHub login.
    pub(crate) sender: String,
    /// To look at.
    pub(crate) url: String,
    /// Labels of the issue or pull request.
    pub(crate) labels: Vec<String>,
    /// Opened rather than commented on.
    pub(crate) opened: bool,
    /// Where the reply goes.
    pub(crate) repository_id: u64,
    /// `owner/name`
    pub(crate) repository: String,
    /// Of the issue or pull request.
    pub(crate) number: u64,
}

impl Work {
    /// Where the reply goes.
    pub(crate) fn target(&self, installation_id: i64) -> Target {
        Target {
            installation_id,
            repository_id: self.repository_id,
            repository: self.repository.clone(),
            number: self.number,
        }
    }
}

/// The body is not a GitHub event.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(&'static str);

/// The installation that an event is of (none: of none), and what it means.
pub(crate) fn read(event: &str, body: &[u8]) -> Result<(Option<i64>, Event), Malformed> {
    let payload: Value = serde_json::from_slice(body).map_err(|_| Malformed("the body is not JSON"))?;
    if !payload.is_object() {
        return Err(Malformed("the body is not an object"));
    }
    let installation = payload["installation"]["id"].as_i64();
    let action = payload["action"].as_str().unwrap_or_default();
    let meaning = match (event, action) {
        ("installation", "deleted") => Event::Uninstalled,
        ("installation", "suspend") => Event::Suspended(true),
        ("installation", "unsuspend") => Event::Suspended(false),
        ("installation_repositories", _) => Event::Repositories,
        ("issues", "opened" | "reopened") => thing(&payload, "issue", event, action)?,
        ("pull_request", "opened") => thing(&payload, "pull_request", event, action)?,
        ("issue_comment", "created") => comment(&payload)?,
        ("check_run", "completed") => check_run(&payload)?,
        _ => Event::Ignored("no work comes of this event"),
    };
    Ok((installation, meaning))
}

fn cut(text: &str, most: usize) -> String {
    text.replace('\0', "\u{fffd}").chars().take(most).collect()
}

fn text(value: &Value, most: usize) -> String {
    cut(value.as_str().unwrap_or_default(), most)
}

/// Bots' events make no work: two agents would answer each other for ever.
fn is_bot(payload: &Value) -> bool {
    payload["sender"]["type"].as_str() == Some("Bot")
}

fn base(
    payload: &Value,
    thing: &Value,
    event: String,
    dedupe_key: String,
    number: u64,
) -> Result<Work, Malformed> {
    let repository = &payload["repository"];
    let full_name = repository["full_name"].as_str().filter(|n| n.len() <= 140 && n.contains('/'));
    let full_name = full_name.ok_or(Malformed("no repository"))?.to_owned();
    let labels = thing["labels"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(Work {
        event,
        dedupe_key,
        session_key: format!("{full_name}#issue:{number}"),
        title: text(&thing["title"], 256),
        body: text(&thing["body"], 65_536),
        sender: text(&payload["sender"]["login"], 64),
        url: text(&thing["html_url"], 512),
        labels: labels.iter().take(100).map(|l| text(&l["name"], 50)).collect(),
        opened: false,
        repository_id: repository["id"].as_u64().ok_or(Malformed("no repository id"))?,
        repository: full_name,
        number,
    })
}

fn thing(payload: &Value, field: &str, event: &str, action: &str) -> Result<Event, Malformed> {
    if is_bot(payload) {
        return Ok(Event::Ignored("a bot caused it"));
    }
    let thing = &payload[field];
    let id = thing["id"].as_u64().ok_or(Malformed("no issue or pull request"))?;
    let number = thing["number"].as_u64().ok_or(Malformed("no number"))?;
    // Each reopening is a happening of its own; an opening happens once.
    let at = if action == "reopened" { thing["updated_at"].as_str().unwrap_or_default() } else { "" };
    let key = format!("github:{field}:{id}:{action}:{}", cut(at, 40));
    let mut work = base(payload, thing, format!("{event}.{action}"), key, number)?;
    work.opened = true;
    Ok(Event::Work(Box::new(work)))
}

fn comment(payload: &Value) -> Result<Event, Malformed> {
    if is_bot(payload) || payload["comment"]["user"]["type"].as_str() == Some("Bot") {
        return Ok(Event::Ignored("a bot caused it"));
    }
    let (issue, comment) = (&payload["issue"], &payload["comment"]);
    let id = comment["id"].as_u64().ok_or(Malformed("no comment"))?;
    let number = issue["number"].as_u64().ok_or(Malformed("no number"))?;
    let mut work =
        base(payload, issue, "issue_comment.created".into(), format!("github:comment:{id}"), number)?;
    // A comment counts by its own text.
    work.body = text(&comment["body"], 65_536);
    work.url = text(&comment["html_url"], 512);
    Ok(Event::Work(Box::new(work)))
}

fn check_run(payload: &Value) -> Result<Event, Malformed> {
    let run = &payload["check_run"];
    let id = run["id"].as_u64().ok_or(Malformed("no check run"))?;
    let ours = payload["repository"]["id"].as_u64();
    // Pull requests from forks are listed with the fork's own number: only this repository's count.
    let requests = run["pull_requests"].as_array().map(Vec::as_slice).unwrap_or_default();
    let number =
        requests.iter().find(|p| p["base"]["repo"]["id"].as_u64() == ours).and_then(|p| p["number"].as_u64());
    let Some(number) = number else {
        return Ok(Event::Ignored("the check run belongs to no pull request here"));
    };
    let mut work =
        base(payload, run, "check_run.completed".into(), format!("github:check_run:{id}"), number)?;
    work.title = cut(
        &format!(
            "Check {} {}",
            run["name"].as_str().unwrap_or_default(),
            run["conclusion"].as_str().unwrap_or_default()
        ),
        256,
    );
    work.body = text(&run["output"]["summary"], 65_536);
    work.opened = true;
    Ok(Event::Work(Box::new(work)))
}

#[cfg(test)]
mod tests;

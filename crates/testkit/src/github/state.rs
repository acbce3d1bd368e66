//! What the fake remembers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) next_id: u64,
    pub(crate) installations: BTreeMap<u64, Installation>,
    /// OAuth code → login; good once.
    pub(crate) codes: HashMap<String, String>,
    /// User token → login.
    pub(crate) user_tokens: HashMap<String, String>,
    /// Installation token → what it may.
    pub(crate) tokens: HashMap<String, Token>,
    /// `owner/repo` → issues by number.
    pub(crate) issues: BTreeMap<String, BTreeMap<u64, Issue>>,
    /// Webhooks, each attempt, the newest last.
    pub(crate) deliveries: Vec<Delivery>,
    /// So many webhooks are not sent and count as failed.
    pub(crate) lose: u32,
    /// Public keys that reports of leaked secrets are signed with.
    pub(crate) scanning_keys: Vec<serde_json::Value>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) exchanges: VecDeque<Exchange>,
}

/// What outlives a restart, as at GitHub: who installed the App, and what stands on the issues.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    next_id: u64,
    installations: BTreeMap<u64, Installation>,
    issues: BTreeMap<String, BTreeMap<u64, Issue>>,
}

/// Our App on an account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Installation {
    pub(crate) account: String,
    /// GitHub's number → `owner/name`.
    pub(crate) repositories: BTreeMap<u64, String>,
    /// Who installed it.
    pub(crate) user: String,
}

/// An installation's token.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) installation: u64,
    /// Such as `issues` → `write`.
    pub(crate) permissions: Value,
    /// None: all of the installation's.
    pub(crate) repositories: Option<Vec<u64>>,
    pub(crate) expires_at: i64,
}

/// An issue with its comments.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Issue {
    pub(crate) comments: Vec<Comment>,
}

/// A comment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Comment {
    pub(crate) id: u64,
    pub(crate) body: String,
}

/// One attempt to deliver a webhook.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) id: u64,
    pub(crate) guid: String,
    pub(crate) event: String,
    pub(crate) payload: Value,
    /// 0: nobody answered.
    pub(crate) status: u16,
    pub(crate) at: String,
    pub(crate) redelivery: bool,
}

/// Something to go wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// A part of the path, such as `/comments`.
    pub path: String,
    /// `GET`, `POST`; empty: any.
    #[serde(default)]
    pub method: String,
    /// `status:503`, `rate_limit`, `unauthorized`, `reset` (the connection breaks before anything happens) or
    /// `lost_answer` (it happens, and then the connection breaks).
    pub kind: String,
    /// How often.
    pub times: u32,
}

/// A request and its answer.
#[derive(Clone, Debug, Serialize)]
pub struct Exchange {
    /// `GET`, …
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Without the question mark.
    pub query: String,
    /// The body, if it was JSON.
    pub request: Value,
    /// The status.
    pub status: u16,
    /// The body.
    pub response: Value,
}

impl State {
    /// As an earlier one left it; empty when there was none.
    pub(crate) fn open(file: &Path) -> Result<Self> {
        if !file.exists() {
            return Ok(Self::default());
        }
        let kept: Kept = serde_json::from_slice(&std::fs::read(file)?)?;
        Ok(Self {
            next_id: kept.next_id,
            installations: kept.installations,
            issues: kept.issues,
            ..Self::default()
        })
    }

    /// For a later one. A reader finds the old file or the new one, never half of one.
    pub(crate) fn keep(&self, file: &Path) -> Result<()> {
        let kept = Kept {
            next_id: self.next_id,
            installations: self.installations.clone(),
            issues: self.issues.clone(),
        };
        let new = file.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(&kept)?)?;
        std::fs::rename(new, file)?;
        Ok(())
    }

    /// A new number.
    pub(crate) fn id(&mut self) -> u64 {
        self.next_id += 1;
        1_000_000 + self.next_id
    }

    /// The fault for this request, used up once.
    pub(crate) fn take_fault(&mut self, method: &str, path: &str) -> Option<String> {
        let found = self
            .faults
            .iter_mut()
            .find(|f| f.times > 0 && path.contains(&f.path) && (f.method.is_empty() || f.method == method))?;
        found.times -= 1;
        Some(found.kind.clone())
    }

    pub(crate) fn note(&mut self, exchange: Exchange) {
        if self.exchanges.len() >= 2000 {
            self.exchanges.pop_front();
        }
        self.exchanges.push_back(exchange);
    }

    /// What tests look at.
    pub(crate) fn summary(&self) -> Value {
        let issues: BTreeMap<&String, BTreeMap<u64, Vec<&Comment>>> = self
            .issues
            .iter()
            .map(|(repo, issues)| {
                (repo, issues.iter().map(|(n, i)| (*n, i.comments.iter().collect())).collect())
            })
            .collect();
        json!({ "issues": issues })
    }
}

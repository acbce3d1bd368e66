//! The chain: an event's canonical JSON, its hash, and the check of a whole log.
//!
//! ```text
//! event 1: hash1 = SHA-256({… "prev_hash":"000…0", "sequence":1 …})
//! event 2: hash2 = SHA-256({… "prev_hash":"hash1", "sequence":2 …})
//! ```
//! To change, drop, add or reorder one event, all later hashes must change: whoever kept one of them notices.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256.
pub type Hash = [u8; 32];

/// What stands before the first event.
pub const GENESIS: Hash = [0; 32];

/// One event, as the API shows it and as the hash covers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// `evt_…`
    pub id: String,
    /// The organization; empty in the platform's chain.
    pub org_id: String,
    /// Position, from 1.
    pub sequence: i64,
    /// When it happened; microseconds count.
    pub occurred_at: DateTime<Utc>,
    /// What acted.
    pub actor_kind: String,
    /// Who acted.
    pub actor_id: String,
    /// What was done.
    pub action: String,
    /// What it was done to.
    pub target_kind: String,
    /// The id of that.
    pub target_id: String,
    /// `success` or `denied`.
    pub outcome: String,
    /// The request.
    pub request_id: String,
    /// Who recorded it.
    pub service: String,
    /// More, by action.
    pub details: BTreeMap<String, String>,
    /// The hash before, in hex.
    pub prev_hash: String,
    /// This hash, in hex.
    pub hash: String,
}

impl Event {
    /// The RFC 8785 JSON that the hash covers.
    pub fn canonical(&self) -> String {
        let text = |s: &str| serde_json::Value::from(s).to_string();
        let mut details: Vec<_> = self.details.iter().collect();
        // RFC 8785 orders names by UTF-16 units, which is not the order of bytes.
        details.sort_by(|a, b| a.0.encode_utf16().cmp(b.0.encode_utf16()));
        let details: Vec<String> = details.iter().map(|(k, v)| format!("{}:{}", text(k), text(v))).collect();
        // The names below stand in their canonical order.
        format!(
            r#"{{"action":{},"actor_id":{},"actor_kind":{},"details":{{{}}},"id":{},"occurred_at":{},"org_id":{},"outcome":{},"prev_hash":{},"request_id":{},"sequence":{},"service":{},"target_id":{},"target_kind":{}}}"#,
            text(&self.action),
            text(&self.actor_id),
            text(&self.actor_kind),
            details.join(","),
            text(&self.id),
            text(&self.occurred_at.to_rfc3339_opts(SecondsFormat::Micros, true)),
            text(&self.org_id),
            text(&self.outcome),
            text(&self.prev_hash),
            text(&self.request_id),
            self.sequence,
            text(&self.service),
            text(&self.target_id),
            text(&self.target_kind),
        )
    }

    /// The hash that the event must have.
    pub fn compute_hash(&self) -> Hash {
        Sha256::digest(self.canonical().as_bytes()).into()
    }
}

/// The end of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last event's number; 0 when there is none.
    pub sequence: i64,
    /// Its hash.
    pub hash: Hash,
}

impl Head {
    /// Before the first event.
    pub const START: Head = Head { sequence: 0, hash: GENESIS };

    /// Gives an event its place after this head, and becomes it.
    pub fn append(&mut self, event: &mut Event) {
        event.sequence = self.sequence + 1;
        event.prev_hash = hex::encode(self.hash);
        let hash = event.compute_hash();
        event.hash = hex::encode(hash);
        *self = Head { sequence: event.sequence, hash };
    }

    /// Checks that an event stands right after this head, and becomes it.
    pub fn check(&mut self, event: &Event) -> Result<(), Broken> {
        let at = self.sequence + 1;
        let broken = |problem: &str| Err(Broken { at, problem: problem.to_owned() });
        if event.sequence != at {
            return broken(&format!("event {at} is missing: the next one is number {}", event.sequence));
        }
        if event.prev_hash != hex::encode(self.hash) {
            return broken("its prev_hash is not the hash of the event before");
        }
        let hash = event.compute_hash();
        if event.hash != hex::encode(hash) {
            return broken("its content does not have its hash: it was changed");
        }
        *self = Head { sequence: at, hash };
        Ok(())
    }
}

/// Where a chain does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event {at}: {problem}")]
pub struct Broken {
    /// The first event that does not hold.
    pub at: i64,
    /// What is wrong.
    pub problem: String,
}

#[cfg(test)]
#[path = "chain/tests.rs"]
mod tests;

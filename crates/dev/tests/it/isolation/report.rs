//! What was tried, and whether it held: JSON for programs, a page for people.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use nitejar_dev::test_stack::target_dir;
use nitejar_proto::POLICIES;
use serde_json::{Value, json};

use super::page;
use crate::endpoints::short;

/// One attack.
pub(super) struct Row {
    pub(super) kind: &'static str,
    /// An RPC, or what else is attacked.
    pub(super) what: String,
    pub(super) by: String,
    pub(super) how: String,
    pub(super) held: bool,
    pub(super) answer: String,
}

/// All of them.
#[derive(Default)]
pub(super) struct Report {
    pub(super) rows: Vec<Row>,
}

/// How often an RPC was attacked by somebody, and how often it held.
#[derive(Clone, Copy, Default)]
pub(super) struct Cell {
    pub(super) tried: usize,
    pub(super) held: usize,
}

/// RPC → attacker → what came of it.
pub(super) type Matrix<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Cell>>;

impl Report {
    /// Notes one attack: of which kind, on what, by whom, how; whether it held, and what was answered.
    pub(super) fn row(
        &mut self,
        kind: &'static str,
        what: impl Into<String>,
        by: impl Into<String>,
        how: impl Into<String>,
        held: bool,
        answer: impl Into<String>,
    ) {
        let (what, by, how, answer) = (what.into(), by.into(), how.into(), answer.into());
        self.rows.push(Row { kind, what, by, how, held, answer });
    }

    /// Every RPC that there is, attacked or not.
    pub(super) fn matrix(&self) -> Matrix<'_> {
        let rpcs: BTreeSet<String> = POLICIES.values().map(short).collect();
        let mut matrix = Matrix::new();
        for row in self.rows.iter().filter(|row| rpcs.contains(&row.what)) {
            let cell = matrix.entry(row.what.as_str()).or_default().entry(row.by.as_str()).or_default();
            cell.tried += 1;
            cell.held += usize::from(row.held);
        }
        matrix
    }

    /// Writes `isolation.json` and `isolation.html`, where `NITEJAR_ISOLATION_REPORT` says, or beside the binaries.
    pub(super) fn write(&self) {
        let dir = std::env::var_os("NITEJAR_ISOLATION_REPORT").map(PathBuf::from);
        let dir = dir.unwrap_or_else(|| target_dir().unwrap().join("isolation"));
        std::fs::create_dir_all(&dir).unwrap();
        let row = |r: &Row| json!({ "kind": r.kind, "what": r.what, "by": r.by, "how": r.how, "held": r.held, "answer": r.answer });
        let cells = |by: &BTreeMap<&str, Cell>| -> Value {
            by.iter().map(|(by, cell)| (*by, json!({ "tried": cell.tried, "held": cell.held }))).collect()
        };
        let all = json!({
            // Whoever started this knows its own report by it.
            "run": std::env::var("NITEJAR_ISOLATION_RUN").unwrap_or_default(),
            // What the build gives away on purpose; see the feature `broken` of nitejar-sprites.
            "given_away": cfg!(feature = "broken").then_some(super::BROKEN),
            "attacks": self.rows.len(),
            "broken": self.broken().count(),
            "matrix": self.matrix().iter().map(|(rpc, by)| (*rpc, cells(by))).collect::<Value>(),
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        });
        std::fs::write(dir.join("isolation.json"), serde_json::to_string_pretty(&all).unwrap()).unwrap();
        std::fs::write(dir.join("isolation.html"), page::page(self)).unwrap();
    }

    pub(super) fn broken(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| !row.held)
    }

    /// Fails with what got through, and with what was not tried at all.
    pub(super) fn assert_all_hold(&self, everybody: &[String]) {
        let matrix = self.matrix();
        for policy in POLICIES.values() {
            let rpc = short(policy);
            let by = matrix.get(rpc.as_str());
            let everybody = super::AT_THE_SERVICE.into_iter().chain(everybody.iter().map(String::as_str));
            let mut missing: Vec<&str> =
                everybody.filter(|who| !by.is_some_and(|by| by.contains_key(who))).collect();
            // What is an operator's own work.
            if policy.scope == nitejar_proto::policy::Scope::Operator {
                missing.retain(|who| *who != "operator");
            }
            assert!(missing.is_empty(), "{rpc} was not attacked by {missing:?}");
        }
        let broken: Vec<String> = self
            .broken()
            .map(|r| format!("{}: {} by {}, {}: {}", r.kind, r.what, r.by, r.how, r.answer))
            .collect();
        assert!(broken.is_empty(), "{} attacks got through:\n{}", broken.len(), broken.join("\n"));
    }
}

//! What was tried, and whether it held: JSON for programs, a page for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use nitejar_dev::test_stack::target_dir;
use serde_json::json;

/// One attack.
struct Row {
    kind: &'static str,
    what: String,
    by: String,
    how: String,
    held: bool,
    answer: String,
}

/// All of them.
#[derive(Default)]
pub(super) struct Report {
    rows: Vec<Row>,
}

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

    /// Writes `isolation.json` and `isolation.html`, where `NITEJAR_ISOLATION_REPORT` says, or beside the binaries.
    pub(super) fn write(&self) {
        let dir = std::env::var_os("NITEJAR_ISOLATION_REPORT").map(PathBuf::from);
        let dir = dir.unwrap_or_else(|| target_dir().unwrap().join("isolation"));
        std::fs::create_dir_all(&dir).unwrap();
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|r| json!({ "kind": r.kind, "what": r.what, "by": r.by, "how": r.how, "held": r.held, "answer": r.answer }))
            .collect();
        let broken = self.rows.iter().filter(|r| !r.held).count();
        let all = json!({ "attacks": rows.len(), "broken": broken, "rows": rows });
        std::fs::write(dir.join("isolation.json"), serde_json::to_string_pretty(&all).unwrap()).unwrap();
        std::fs::write(dir.join("isolation.html"), self.page(broken)).unwrap();
    }

    fn page(&self, broken: usize) -> String {
        let mut page = String::from(
            "<!doctype html><html lang=en><meta charset=utf-8><title>Isolation between organizations</title><style>\
             body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#222}\
             table{border-collapse:collapse;width:100%;margin:.5rem 0 2rem}td,th{padding:.2rem .6rem;border-bottom:1px solid #ddd;\
             text-align:left;vertical-align:top}.good{color:#176b2c}.bad{color:#b00020;font-weight:bold}td:last-child{color:#666}\
             </style><h1>Isolation between organizations</h1>",
        );
        let verdict = if broken == 0 { "good" } else { "bad" };
        let all = self.rows.len();
        write!(
            page,
            "<p class={verdict}>{all} attacks on one organization, by everybody whom another may have and by strangers: \
             {broken} got through.</p><p>After each group the victim was asked for everything it has; it must be as before. An \
             attack holds when the answer is a refusal, or shows nothing of the victim's.</p>"
        )
        .unwrap();
        let mut kinds: Vec<&str> = self.rows.iter().map(|r| r.kind).collect();
        kinds.dedup();
        for kind in kinds {
            // One line for the same attack by different people with the same answer.
            let mut lines: BTreeMap<(&str, &str, bool, &str), Vec<&str>> = BTreeMap::new();
            for r in self.rows.iter().filter(|r| r.kind == kind) {
                lines.entry((&r.what, &r.how, r.held, &r.answer)).or_default().push(&r.by);
            }
            write!(
                page,
                "<h2>{}</h2><table><tr><th></th><th>On</th><th>How</th><th>By</th><th>Answer</th></tr>",
                escaped(kind)
            )
            .unwrap();
            for ((what, how, held, answer), by) in lines {
                let mark = if held { "<td class=good>held" } else { "<td class=bad>GOT THROUGH" };
                write!(
                    page,
                    "<tr>{mark}<td>{}<td>{}<td>{}<td>{}</tr>",
                    escaped(what),
                    escaped(how),
                    escaped(&by.join(", ")),
                    escaped(answer)
                )
                .unwrap();
            }
            page.push_str("</table>");
        }
        page
    }

    /// Fails with what got through.
    pub(super) fn assert_all_hold(&self) {
        assert!(self.rows.len() > 500, "only {} attacks were tried", self.rows.len());
        let broken: Vec<String> = self
            .rows
            .iter()
            .filter(|r| !r.held)
            .map(|r| format!("{}: {} by {}, {}: {}", r.kind, r.what, r.by, r.how, r.answer))
            .collect();
        assert!(broken.is_empty(), "{} attacks got through:\n{}", broken.len(), broken.join("\n"));
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

//! The report's page. It is one file without scripts, so that it can be sent to somebody.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use nitejar_proto::POLICIES;
use nitejar_proto::policy::Scope;

use super::report::{Report, Row};
use crate::endpoints::short;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:90rem;margin:2rem auto;padding:0 1rem;color:#222}\
 table{border-collapse:collapse;margin:.5rem 0 2rem}td,th{padding:.2rem .6rem;border-bottom:1px solid #ddd;text-align:left;\
 vertical-align:top}.good{color:#176b2c}.bad{color:#b00020;font-weight:bold}td:last-child{color:#666}summary{cursor:pointer}\
 .matrix{overflow-x:auto}.matrix td,.matrix th{padding:.1rem .3rem;font-size:12px;text-align:center}\
 .matrix th:first-child,.matrix td:first-child{text-align:left;position:sticky;left:0;background:#fff}\
 .matrix thead th+th{writing-mode:vertical-rl;transform:rotate(180deg);vertical-align:top}\
 .matrix td.good{background:#e9f5ec}.matrix td.bad{background:#fbe3e6}";

/// What a reader must know of a kind of attack.
const KINDS: &[(&str, &str)] = &[
    (
        "The victim's address",
        "Each RPC of an organization at the victim's own path, with its own ids. It must look as if there were no such organization: the same answer as for an id of nothing.",
    ),
    (
        "The victim's ids in one's own organization",
        "The attacker's own path, with the victim's ids in it and in the body. What names a thing of the victim's must be refused, and nothing of it may be shown.",
    ),
    ("Ids within bodies", "The same ids deeper in a body: in lists, in configurations."),
    ("Filters", "Each field that narrows a list, filled with what is the victim's."),
    (
        "A person's own routes",
        "Aimed at what really is the victim's: its slug, its invitation's token, its owner's key, session and sign-in link, an installation that it has begun.",
    ),
    (
        "The gateway, past its routes",
        "What services ask each other has no route at the gateway, by whatever path.",
    ),
    (
        "Operators' routes",
        "Called by everybody who is no operator. What operators themselves may do is in docs/SECURITY.md.",
    ),
    ("Page tokens of the victim's", "Each list that has pages. The token works for the victim first."),
    (
        "The victim's idempotency key",
        "The victim's own request, word for word, with its key. The victim is answered again first.",
    ),
    (
        "Streams",
        "From the start, and from where the victim's own stream broke off. It goes on for the victim first.",
    ),
    (
        "The services themselves",
        "Each RPC over gRPC, past the gateway, with tokens that somebody in our network could have: none, another's, a forged one, one of another organization's, and services that were taken over. Any service may add events to an organization's log: that is its work, and the log says which service did.",
    ),
    ("A service's own database logins", "SQL of one's own with the logins that a service has."),
    (
        "Two tenants of one login",
        "A login serves a share of the tenants, and may SET ROLE to each of them: that is a wall against mistakes, not against SQL of an attacker's. What keeps two tenants of one login apart is tried here: each transaction begins by binding its own tenant, and a text from outside is never SQL.",
    ),
    (
        "Interleavings",
        "Random deeds of two organizations on the same few connections, some broken off in the middle. A seed repeats them.",
    ),
    (
        "The victim afterwards",
        "After each of these the victim reads everything that it has, and its rows in all four databases are compared, table by table.",
    ),
];

pub(super) fn page(report: &Report) -> String {
    let broken = report.broken().count();
    let (all, verdict) = (report.rows.len(), if broken == 0 { "good" } else { "bad" });
    let asked = report.rows.iter().filter(|row| row.kind == "The victim afterwards").count();
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Isolation between organizations</title><style>{STYLE}</style>\
         <h1>Isolation between organizations</h1><p class={verdict}>{all} attacks on one organization, by everybody whom \
         another may have and by strangers: {broken} got through.</p><p>{asked} times the victim was asked in between for \
         everything it has; it must be as before. An attack holds when the answer is a refusal, or shows nothing of the \
         victim's.</p>"
    );
    if broken > 0 {
        page.push_str("<h2>What got through</h2>");
        rows(&mut page, report.broken());
    }
    matrix(&mut page, report);
    let mut kinds: Vec<&str> = Vec::new();
    for row in &report.rows {
        if !kinds.contains(&row.kind) {
            kinds.push(row.kind);
        }
    }
    page.push_str("<h2>Each attack</h2>");
    for kind in kinds {
        let of_kind = || report.rows.iter().filter(|row| row.kind == kind);
        let (tried, held) = (of_kind().count(), of_kind().filter(|row| row.held).count());
        let (verdict, open) = if tried == held { ("good", "") } else { ("bad", " open") };
        let why = KINDS.iter().find(|(name, _)| *name == kind).map_or("", |(_, why)| *why);
        write!(
            page,
            "<details{open}><summary><b>{}</b> <span class={verdict}>{held} of {tried} held</span> {}</summary>",
            escaped(kind),
            escaped(why)
        )
        .unwrap();
        rows(&mut page, of_kind());
        page.push_str("</details>");
    }
    page
}

/// RPC × attacker: how many attacks held.
fn matrix(page: &mut String, report: &Report) {
    let matrix = report.matrix();
    let (mut columns, mut seen) = (Vec::new(), BTreeSet::new());
    for row in report.rows.iter().filter(|row| matrix.contains_key(row.what.as_str())) {
        if seen.insert(row.by.as_str()) {
            columns.push(row.by.as_str());
        }
    }
    page.push_str(
        "<h2>Each RPC × each attacker</h2><p>The number of attacks, all of which held where it is green. A point: what an \
         operator does by their work, or what is not asked in that way.</p><div class=matrix><table><thead><tr><th>",
    );
    for column in &columns {
        write!(page, "<th>{}", escaped(column)).unwrap();
    }
    page.push_str("</thead>");
    for (scope, title) in [
        (Scope::Tenant, "Of an organization"),
        (Scope::User, "Of a person"),
        (Scope::Public, "Everybody's"),
        (Scope::Runner, "Runners'"),
        (Scope::Operator, "Operators'"),
        (Scope::Internal, "Between services"),
    ] {
        write!(page, "<tr><th colspan={}>{}", columns.len() + 1, escaped(title)).unwrap();
        let rpcs: BTreeSet<String> = POLICIES.values().filter(|p| p.scope == scope).map(short).collect();
        for rpc in rpcs {
            write!(page, "<tr><td>{}", escaped(&rpc)).unwrap();
            for column in &columns {
                let cell = matrix.get(rpc.as_str()).and_then(|by| by.get(column));
                match cell {
                    None => page.push_str("<td>·"),
                    Some(cell) if cell.held == cell.tried => {
                        write!(page, "<td class=good>{}", cell.tried).unwrap()
                    }
                    Some(cell) => write!(page, "<td class=bad>{} of {}", cell.held, cell.tried).unwrap(),
                }
            }
        }
    }
    page.push_str("</table></div>");
}

/// One line for the same attack by different people with the same answer.
fn rows<'a>(page: &mut String, rows: impl Iterator<Item = &'a Row>) {
    let mut lines: BTreeMap<(&str, &str, bool, &str), Vec<&str>> = BTreeMap::new();
    for r in rows {
        lines.entry((&r.what, &r.how, r.held, &r.answer)).or_default().push(&r.by);
    }
    page.push_str("<table><tr><th></th><th>On</th><th>How</th><th>By</th><th>Answer</th></tr>");
    for ((what, how, held, answer), by) in lines {
        let mark = if held { "<td class=good>held" } else { "<td class=bad>GOT THROUGH" };
        let (what, how, answer) = (escaped(what), escaped(how), escaped(answer));
        write!(page, "<tr>{mark}<td>{what}<td>{how}<td>{}<td>{answer}</tr>", escaped(&by.join(", ")))
            .unwrap();
    }
    page.push_str("</table>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

//! `cargo xtask prove-isolation`: runs the proof and judges its report. That a command failed proves nothing: it may not have
//! compiled.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::packages;
use crate::run::{build_with_tests, cargo, target_dir};

/// What the build with the feature `broken` gives away; see `services/sprites/Cargo.toml`.
const BROKEN: &str = "WorkItems.CreateWorkItem";

/// The attacks on the product and on the database layer are in one build, which is also that of `cargo xtask test`.
const TESTS: &[&str] = &["--workspace", "--test", "it"];

pub fn prove(broken: bool) -> Result<()> {
    packages::ensure()?;
    build_with_tests(TESTS)?;
    let dir = target_dir()?.join(if broken { "isolation-broken" } else { "isolation" });
    // What is found afterwards is of this run: the old one is gone, and the new one bears this name.
    let _ = std::fs::remove_dir_all(&dir);
    let run = format!("{:016x}", RandomState::new().build_hasher().finish());
    let features: &[&str] = if broken { &["--features", "broken"] } else { &[] };
    let report_to = [("NITEJAR_ISOLATION_REPORT", dir.as_os_str()), ("NITEJAR_ISOLATION_RUN", run.as_ref())];
    let held = tests_hold(attacks(features, "isolation::").envs(report_to));
    let walls = tests_hold(&mut attacks(features, "tenant_tx::"));
    if broken {
        // Cargo put programs that give tenants away where everybody looks for them: the others again.
        build_with_tests(TESTS)?;
    }
    let (held, walls) = (held?, walls?);
    let page = dir.join("isolation.html");
    let report = read(&dir.join("isolation.json"))?;
    eprintln!("the report: {}", page.display());
    ensure!(
        walls,
        "an attack on the database layer got through, or its tests did not run: see the output above"
    );
    judge(&report, &run, broken)?;
    match (held, broken) {
        (false, false) => bail!("every attack of the report held, but the test failed: see the output above"),
        (true, true) => {
            bail!("the report shows the broken handler, but the test did not fail: it asserts too little")
        }
        (false, true) => {
            eprintln!("the broken handler ({BROKEN}) was found, and nothing else, as it must be");
            Ok(())
        }
        (true, false) => {
            eprintln!("all {} attacks held", report["rows"].as_array().map_or(0, Vec::len));
            Ok(())
        }
    }
}

/// Runs the tests of a module.
fn attacks(features: &[&str], module: &str) -> Command {
    let mut command = cargo();
    command.arg("test").args(TESTS).args(features).args(["--", module]);
    command
}

/// Runs tests, and shows what they say. None at all is not a success: a module may have got another name.
fn tests_hold(command: &mut Command) -> Result<bool> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("running cargo test")?;
    let mut ran = 0;
    // `test it::module::name ... ok`; an ignored one shows nothing.
    for line in BufReader::new(child.stdout.take().context("no stdout")?).lines() {
        let line = line?;
        println!("{line}");
        ran += usize::from(line.starts_with("test ") && (line.ends_with("ok") || line.ends_with("FAILED")));
    }
    let held = child.wait()?.success();
    ensure!(ran > 0 || !held, "no test ran: is their module's name another one?");
    Ok(held)
}

fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "the proof wrote no report to {}: it did not compile, or ended before: see the output above",
            path.display()
        )
    })?;
    serde_json::from_str(&text).with_context(|| format!("{} is no report", path.display()))
}

/// Whether a report is this run's, of the build that was asked for, and shows what that build must show: nothing that got
/// through, or the broken handler alone. That one is told twice: as the answer, and as what it did to the victim.
fn judge(report: &Value, run: &str, broken: bool) -> Result<()> {
    ensure!(report["run"] == run, "the report is of another run: {}", report["run"]);
    let given_away = report["given_away"].as_str();
    let expected = broken.then_some(BROKEN);
    ensure!(
        given_away == expected,
        "the report is of a build that gives away {given_away:?}, not {expected:?}"
    );
    let rows = report["rows"].as_array().context("the report has no rows")?;
    ensure!(rows.len() > 5_000, "the report has only {} attacks", rows.len());
    let through: Vec<&Value> = rows.iter().filter(|row| row["held"] != true).collect();
    let tell = |row: &Value| {
        let part = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        format!("{}: {} by {}, {}: {}", part("kind"), part("what"), part("by"), part("how"), part("answer"))
    };
    let others: Vec<String> =
        through.iter().filter(|row| !(broken && row["what"] == BROKEN)).map(|row| tell(row)).collect();
    if !others.is_empty() {
        bail!("{} attacks got through; see the report:\n{}", others.len(), others.join("\n"));
    }
    if broken {
        let found = |kind: &str| through.iter().any(|row| row["kind"] == kind);
        for kind in
            ["The victim's ids in one's own organization", "Ids within bodies", "The victim afterwards"]
        {
            ensure!(
                found(kind),
                "a handler that trusts an id from the body was not found by {kind:?}: the proof proves nothing; see its rows of {BROKEN}"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A report in which these (kind, what) got through.
    fn report(given_away: Option<&str>, through: &[(&str, &str)]) -> Value {
        let mut rows: Vec<Value> =
            (0..6_000).map(|_| json!({ "kind": "k", "what": "w", "held": true })).collect();
        rows.extend(through.iter().map(|(kind, what)| json!({ "kind": kind, "what": what, "held": false })));
        json!({ "run": "1", "given_away": given_away, "rows": rows })
    }

    const FOUND: [(&str, &str); 3] = [
        ("The victim's ids in one's own organization", BROKEN),
        ("Ids within bodies", BROKEN),
        ("The victim afterwards", BROKEN),
    ];

    fn good(report: &Value, broken: bool) -> bool {
        judge(report, "1", broken).is_ok()
    }

    #[test]
    fn the_broken_handler_must_be_found_and_nothing_else() {
        assert!(good(&report(None, &[]), false));
        assert!(good(&report(Some(BROKEN), &FOUND), true));
        // Nothing was found, only the answer, or only the harm.
        assert!(!good(&report(Some(BROKEN), &[]), true));
        for i in 0..3 {
            let some: Vec<_> =
                FOUND.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, row)| *row).collect();
            assert!(!good(&report(Some(BROKEN), &some), true));
        }
        // Something else got through, too.
        let more = [&FOUND[..], &[("Filters", "Jobs.ListJobs")]].concat();
        assert!(!good(&report(Some(BROKEN), &more), true));
        assert!(!good(&report(None, &FOUND), false));
        // Another build, another run, or hardly any attacks.
        assert!(!good(&report(None, &FOUND), true));
        assert!(!good(&report(Some(BROKEN), &[]), false));
        assert!(judge(&report(None, &[]), "2", false).is_err());
        assert!(!good(&json!({ "run": "1", "given_away": null, "rows": [] }), false));
        assert!(!good(&json!({ "run": "1", "given_away": null }), false));
    }
}

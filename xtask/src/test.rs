//! `cargo xtask test`: every check, each timed, the tests last so that their closing lines close the output.

use std::io::IsTerminal as _;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::run::{cargo, run as must};
use crate::{checks, packages};

type Step = (&'static str, &'static str, fn() -> Result<String>);

const STEPS: &[Step] = &[
    ("packages", "system packages are there", || packages::ensure_for_tests().map(|()| String::new())),
    ("fmt", "the code is formatted", fmt),
    ("layering", "who may depend on whom; where SQL and transport may be", checks::layering),
    ("docs", "links, paths and commands in documents exist", checks::docs),
    ("clippy", "no warning anywhere", clippy),
    ("deny", "licences, sources and bans of dependencies", deny),
    ("npm", "what judges us: GitHub's examples and description, an OpenAPI validator", npm),
    ("python", "more of them: a tester of APIs, a generator of clients, Kubernetes' schemas", python),
    ("breaking", "the proto files break nobody who has the released ones", breaking),
    ("build", "the tests, and what they start as processes", build),
    ("generated", "docs/openapi.json is what the proto files say", || {
        crate::run::openapi(true).map(|()| String::new())
    }),
    ("tests", "all tests", tests),
];

/// Runs all steps, or one.
pub fn run_steps(only: Option<&str>) -> Result<()> {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let chosen: Vec<&Step> = STEPS.iter().filter(|s| only.is_none_or(|o| o == s.0)).collect();
    if chosen.is_empty() {
        bail!("there is no step {}; `cargo xtask test --list` lists them", only.unwrap_or_default());
    }
    let began = Instant::now();
    for (i, (name, what, step)) in chosen.iter().enumerate() {
        eprintln!("[{}/{}] {name}: {what} …", i + 1, chosen.len());
        let began = Instant::now();
        let result = step();
        let seconds = began.elapsed().as_secs_f64();
        match result {
            Ok(note) => {
                let ok = if colour { "\x1b[32mok\x1b[0m" } else { "ok" };
                eprintln!("[{}/{}] {name} {ok} ({seconds:.1} s){note}", i + 1, chosen.len());
            }
            Err(error) => {
                eprintln!("[{}/{}] {name} FAILED ({seconds:.1} s)", i + 1, chosen.len());
                bail!("step {name}: {error:#}\n`cargo xtask test --only {name}` runs this step alone");
            }
        }
    }
    eprintln!("all steps passed ({:.0} s)", began.elapsed().as_secs_f64());
    Ok(())
}

/// `--list`, `--only`, or everything.
pub fn run(only: Option<&str>, list: bool) -> Result<()> {
    if list {
        for (name, what, _) in STEPS {
            println!("{name:<10} {what}");
        }
        return Ok(());
    }
    run_steps(only)
}

fn fmt() -> Result<String> {
    must(cargo().args(["fmt", "--all", "--check"])).map(|()| String::new())
}

fn clippy() -> Result<String> {
    must(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
        .map(|()| String::new())
}

fn deny() -> Result<String> {
    if !packages::has("cargo-deny") {
        return Ok(": skipped, cargo-deny is not installed (cargo install cargo-deny)".into());
    }
    must(cargo().args(["deny", "--offline", "check", "bans", "licenses", "sources"])).map(|()| String::new())
}

fn npm() -> Result<String> {
    let dir = crate::run::root()?.join("crates/testkit/npm");
    if !packages::has("npm") {
        return Ok(": skipped, npm is not installed".into());
    }
    if dir.join("node_modules/@octokit/webhooks-examples").exists() {
        return Ok(String::new());
    }
    let mut command = Command::new("npm");
    command.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]).current_dir(&dir);
    must(&mut command).map(|()| String::new())
}

fn breaking() -> Result<String> {
    let root = crate::run::root()?;
    let buf = root.join("crates/testkit/npm/node_modules/.bin/buf");
    if !buf.exists() {
        return Ok(": skipped, npm's buf is not installed".into());
    }
    let mut command = Command::new(buf);
    command.args(["breaking", "proto", "--against", "proto/released.binpb"]).current_dir(&root);
    must(&mut command).map(|()| String::new())
}

fn python() -> Result<String> {
    venv("python", "requirements.txt").map(|()| String::new())
}

/// A Python of our own, below the build's folder; made anew when the list of its packages changed.
pub fn venv(name: &str, list: &str) -> Result<()> {
    let list = crate::run::root()?.join("crates/testkit/python").join(list);
    let dir = crate::run::target_dir()?.join(name);
    let (wanted, installed) = (std::fs::read(&list)?, dir.join("installed.txt"));
    if std::fs::read(&installed).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    let _ = std::fs::remove_dir_all(&dir);
    must(Command::new("python3").args(["-m", "venv"]).arg(&dir))?;
    let mut pip = Command::new(dir.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "-r"])
        .arg(&list);
    must(&mut pip)?;
    Ok(std::fs::write(&installed, &wanted)?)
}

fn build() -> Result<String> {
    crate::run::build_with_tests(crate::run::EVERYTHING).map(|()| String::new())
}

fn tests() -> Result<String> {
    let nextest = packages::has("cargo-nextest");
    let mut command = cargo();
    if nextest {
        command.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
    } else {
        command.args(["test", "--workspace", "--no-fail-fast"]);
    }
    must(&mut command).map(|()| String::new())
}

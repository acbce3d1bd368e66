//! Checks that no compiler makes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::run::{cargo, root};

/// Files that git tracks.
fn tracked() -> Result<Vec<PathBuf>> {
    let root = root()?;
    let output = Command::new("git").args(["ls-files"]).current_dir(&root).output().context("running git")?;
    if !output.status.success() {
        bail!("git ls-files failed");
    }
    Ok(String::from_utf8(output.stdout)?.lines().map(PathBuf::from).collect())
}

/// No service depends on another; the gateway has no sqlx; SQL and transport keep to their rooms.
pub fn layering() -> Result<String> {
    let mut problems = Vec::new();
    let output =
        cargo().args(["metadata", "--format-version=1", "--offline"]).output().context("cargo metadata")?;
    let output = if output.status.success() {
        output
    } else {
        cargo().args(["metadata", "--format-version=1"]).output()?
    };
    let metadata: Value = serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: BTreeMap<&str, &str> =
        packages.iter().filter_map(|p| Some((p["id"].as_str()?, p["name"].as_str()?))).collect();
    let services = ["tenancy", "sprites", "billing", "audit", "gateway"].map(|s| format!("nitejar-{s}"));
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let Some(from) = node["id"].as_str().and_then(|id| names.get(id)) else { continue };
        for dep in node["deps"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let normal = dep["dep_kinds"].as_array().is_some_and(|k| k.iter().any(|k| k["kind"].is_null()));
            if let (true, Some(to)) = (normal, dep["pkg"].as_str().and_then(|id| names.get(id))) {
                edges.entry(from).or_default().insert(to);
            }
        }
    }
    for from in &services {
        for to in edges.get(from.as_str()).into_iter().flatten() {
            if services.iter().any(|s| s == to) {
                problems.push(format!("{from} depends on {to}: services talk over gRPC only"));
            }
        }
    }
    let mut seen = BTreeSet::new();
    let mut todo = vec!["nitejar-gateway"];
    while let Some(name) = todo.pop() {
        if seen.insert(name) {
            todo.extend(edges.get(name).into_iter().flatten());
        }
    }
    if seen.iter().any(|n| n.starts_with("sqlx")) {
        problems.push("nitejar-gateway reaches sqlx: the gateway has no database".into());
    }
    for file in tracked()?.iter().filter(|f| f.extension().is_some_and(|e| e == "rs")) {
        room(file, &mut problems)?;
    }
    finish(problems)
}

/// What a file may mention, by the room that it stands in.
fn room(file: &Path, problems: &mut Vec<String>) -> Result<()> {
    let text = std::fs::read_to_string(root()?.join(file)).unwrap_or_default();
    let path = file.display().to_string();
    let in_room = |room: &str| path.starts_with("services/") && path.contains(&format!("/src/{room}/"));
    let test = path.contains("/tests/") || path.ends_with("/tests.rs") || path.starts_with("crates/dev/");
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split("//").next().unwrap_or_default();
        let mut refuse = |wrong: bool, why: &str| {
            if wrong {
                problems.push(format!("{path}:{number}: {why}"));
            }
        };
        if in_room("domain") {
            refuse(
                line.contains("sqlx::") || line.contains("tonic::"),
                "domain/ knows neither SQL nor transport",
            );
        }
        if in_room("store") {
            refuse(line.contains("tonic::"), "store/ knows no transport");
        }
        let sql = line.contains("sqlx::query") || line.contains("sqlx::raw_sql");
        if path.starts_with("services/") && !in_room("store") && !test {
            refuse(sql, "SQL stands in store/ only");
        }
    }
    Ok(())
}

/// Links, paths and commands that documents name exist; no file names this machine.
pub fn docs() -> Result<String> {
    let root = root()?;
    let mut problems = Vec::new();
    let files = tracked()?;
    let xtask = <crate::Cli as clap::CommandFactory>::command();
    let commands: Vec<&str> = xtask.get_subcommands().map(clap::Command::get_name).collect();
    let documents = files.iter().filter(|f| f.extension().is_some_and(|e| e == "md"));
    for file in documents {
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        let folder = root.join(file).parent().map(Path::to_owned).unwrap_or_default();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !folder.join(target).exists() {
                problems.push(format!("{}: the link {link} leads nowhere", file.display()));
            }
        }
        for code in text.split('`').skip(1).step_by(2) {
            let looks_like_path = code.contains('/')
                && !code.contains([' ', '{', '<', '*', '$', '…', '\n', ':'])
                && ["crates/", "services/", "docs/", "proto/", "xtask/", ".config/", ".ci/"]
                    .iter()
                    .any(|p| code.starts_with(p));
            if looks_like_path && !root.join(code).exists() {
                problems.push(format!("{}: {code} does not exist", file.display()));
            }
            if let Some(command) = code.strip_prefix("cargo xtask ").and_then(|c| c.split_whitespace().next())
                && !commands.contains(&command)
            {
                problems.push(format!("{}: there is no cargo xtask {command}", file.display()));
            }
        }
    }
    for file in files.iter().filter(|f| !f.ends_with("xtask/src/checks.rs")) {
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        if ["/work/", "/root/"]
            .iter()
            .any(|p| text.contains(&format!("\"{p}")) || text.contains(&format!(" {p}")))
        {
            problems.push(format!("{}: names a path of somebody's machine", file.display()));
        }
    }
    finish(problems)
}

fn finish(problems: Vec<String>) -> Result<String> {
    if problems.is_empty() { Ok(String::new()) } else { bail!("\n  {}", problems.join("\n  ")) }
}

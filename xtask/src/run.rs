//! Builds `nitejar-dev` and becomes it, so that signals and exit codes pass through.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::packages;

/// What a stack on one machine runs.
pub const BINARIES: &[&str] = &["nitejar-dev", "nitejar-runner", "nitejar-audit"];
/// What `cargo xtask test` builds.
pub const EVERYTHING: &[&str] = &["--workspace", "--tests"];
const SERVICES: &[&str] = &["nitejar-tenancy", "nitejar-sprites", "nitejar-billing", "nitejar-gateway"];

pub fn up(split: bool, rest: &[String]) -> Result<()> {
    packages::ensure()?;
    let packages: Vec<&str> = if split { [BINARIES, SERVICES].concat() } else { BINARIES.to_vec() };
    build(&packages, false)?;
    let mut args = vec!["up".to_owned()];
    if split {
        args.push("--split".into());
    }
    args.extend(rest.iter().filter(|a| *a != "--").cloned());
    become_dev(&args, false)
}

pub fn demo(rest: &[String]) -> Result<()> {
    build(BINARIES, false)?;
    let mut args = vec!["demo".to_owned()];
    args.extend(rest.iter().filter(|a| *a != "--").cloned());
    become_dev(&args, false)
}

pub fn bench(name: &str, json: bool, rest: &[String]) -> Result<()> {
    packages::ensure()?;
    build(&[BINARIES, SERVICES].concat(), true)?;
    if name == "tenancy"
        && let Err(error) = crate::test::venv("bench-python", "bench-requirements.txt")
    {
        eprintln!("django-tenants is not compared with: {error:#}");
    }
    let mut args = vec!["bench".to_owned(), name.to_owned()];
    if json {
        args.push("--json".into());
    }
    args.extend(rest.iter().filter(|a| *a != "--").cloned());
    become_dev(&args, true)
}

pub fn openapi(check: bool) -> Result<()> {
    if check {
        build_with_tests(EVERYTHING)?;
    } else {
        build(&["nitejar-dev"], false)?;
    }
    let output = Command::new(dev(false)?).arg("openapi").output().context("running nitejar-dev")?;
    if !output.status.success() {
        bail!("nitejar-dev openapi failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let path = root()?.join("docs/openapi.json");
    let kept = std::fs::read(&path).unwrap_or_default();
    if kept == output.stdout {
        return Ok(());
    }
    if check {
        bail!("docs/openapi.json is not what the proto files say. Run: cargo xtask openapi");
    }
    std::fs::write(&path, &output.stdout)?;
    eprintln!("wrote docs/openapi.json");
    Ok(())
}

/// Builds packages; says why it takes minutes the first time.
pub fn build(packages: &[&str], release: bool) -> Result<()> {
    let mut args: Vec<&str> = packages.iter().flat_map(|package| ["-p", package]).collect();
    if release {
        args.push("--release");
    }
    build_with(&args, release)
}

/// Builds programs together with tests: cargo gives dependencies the features of all that is asked for, so a build of the
/// programs alone compiles nearly everything once more. `what`: the packages and tests that are run afterwards.
pub fn build_with_tests(what: &[&str]) -> Result<()> {
    build_with(&[what, &["--bins"]].concat(), false)
}

fn build_with(args: &[&str], release: bool) -> Result<()> {
    let target = target_dir()?.join(if release { "release" } else { "debug" });
    let first = !target.join("nitejar-dev").exists();
    if first {
        let time = if release { "ten minutes" } else { "five to eight minutes" };
        eprintln!("building for the first time: about {time} on two cores …");
    }
    let mut command = cargo();
    command.arg("build").args(args);
    // Minutes without a word look like a hang; a rebuild is not worth one.
    if !first {
        command.arg("--quiet");
    }
    run(&mut command)
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("running {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// The repository.
pub fn root() -> Result<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("xtask stands in the repository")?.to_owned())
}

/// Where cargo builds.
pub fn target_dir() -> Result<PathBuf> {
    Ok(match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => dir.into(),
        None => root()?.join("target"),
    })
}

fn dev(release: bool) -> Result<PathBuf> {
    Ok(target_dir()?.join(if release { "release" } else { "debug" }).join("nitejar-dev"))
}

fn become_dev(args: &[String], release: bool) -> Result<()> {
    let error = Command::new(dev(release)?).args(args).exec();
    Err(error).context("starting nitejar-dev")
}

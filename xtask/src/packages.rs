//! System packages: found, installed, or named with the exact command.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

type Package = (&'static str, fn() -> bool);

/// What is needed, and how one sees that it is there.
const NEEDED: &[Package] = &[("postgresql", has_postgres), ("gcc", || has("cc"))];

/// What the tests need besides: a real browser, and those who judge us.
const FOR_TESTS: &[Package] = &[
    ("chromium", || ["chromium", "chromium-browser", "google-chrome"].iter().any(|name| has(name))),
    ("npm", || has("npm")),
    ("python3-venv", has_venv),
];

fn has_venv() -> bool {
    let mut python = Command::new("python3");
    python.args(["-c", "import venv, ensurepip"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// Whether a program is on the path.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn has_postgres() -> bool {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    debian.map(|e| e.path().join("bin/initdb")).any(|p| p.exists()) || (has("initdb") && has("postgres"))
}

/// What running the product needs: installs what is missing as root or by sudo; otherwise prints what to type.
pub fn ensure() -> Result<()> {
    install(NEEDED)
}

/// The same for the tests.
pub fn ensure_for_tests() -> Result<()> {
    install(NEEDED)?;
    install(FOR_TESTS)
}

fn install(packages: &[Package]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().filter(|(_, there)| !there()).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get update && apt-get install -y {}", missing.join(" "));
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0\n"));
    let sudo = !root
        && has("sudo")
        && Command::new("sudo")
            .args(["-n", "true"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success());
    if !Path::new("/usr/bin/apt-get").exists() || !(root || sudo) {
        bail!(
            "these system packages are missing: {}. Install them, on Debian or Ubuntu by\n  sudo sh -c '{by_hand}'",
            missing.join(", ")
        );
    }
    eprintln!("installing {} …", missing.join(", "));
    let apt = |args: &[&str]| -> Result<()> {
        let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
        if sudo {
            command.args(["-n", "apt-get"]);
        }
        let status =
            command.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).status();
        let status = status.context("running apt-get")?;
        if !status.success() {
            bail!("apt-get {} failed. By hand: {by_hand}", args.join(" "));
        }
        Ok(())
    };
    apt(&["update", "-qq"])?;
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install)
}

//! Finds PostgreSQL's programs, and a user to run them as.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// PostgreSQL 15 or newer.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// Holds `initdb`, `postgres` and `pg_ctl`.
    pub dir: PathBuf,
    /// Such as 15.
    pub major: u32,
}

/// The newest PostgreSQL there is: Debian's folders first, then the path.
pub fn find_binaries() -> Result<Binaries> {
    let mut dirs: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path().join("bin")))
        .collect();
    dirs.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    let found = dirs.into_iter().filter_map(|dir| Some(Binaries { major: version(&dir)?, dir }));
    let newest = found.max_by_key(|b| b.major);
    match newest {
        Some(b) if b.major >= 15 => Ok(b),
        Some(b) => {
            bail!("PostgreSQL {} is too old: 15 or newer is needed. apt-get install postgresql", b.major)
        }
        None => bail!("there is no PostgreSQL server here. apt-get install postgresql"),
    }
}

fn version(dir: &Path) -> Option<u32> {
    if !dir.join("initdb").exists() || !dir.join("postgres").exists() {
        return None;
    }
    let output = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok())
}

/// Whether this process is root, whom PostgreSQL refuses to run as.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The user that root runs PostgreSQL as: (uid, gid).
pub(crate) fn service_user() -> Result<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
    for name in ["postgres", "nobody"] {
        for line in passwd.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [user, _, uid, gid, ..] = fields.as_slice()
                && *user == name
            {
                return Ok((uid.parse()?, gid.parse()?));
            }
        }
    }
    bail!("root can't run PostgreSQL, and there is neither a user postgres nor nobody")
}

/// A command that runs as the user that may run PostgreSQL, in a process group of its own: Ctrl-C in the terminal
/// reaches our services first, which still need their database to drain.
pub(crate) fn command(program: &Path) -> Result<Command> {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(program);
    if is_root() {
        let (uid, gid) = service_user()?;
        // Debian's server binary reads libraries only; no supplementary groups are needed.
        command.gid(gid).uid(uid);
    }
    command.process_group(0);
    command.current_dir("/");
    command.env_remove("PGDATA").env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    Ok(command)
}

/// Gives a folder to that user, with all that is in it.
pub(crate) fn give_to_service_user(path: &Path) -> Result<()> {
    if is_root() {
        let (uid, gid) = service_user()?;
        give(path, uid, gid)?;
    }
    Ok(())
}

fn give(path: &Path, uid: u32, gid: u32) -> Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
        .with_context(|| format!("chown {}", path.display()))?;
    if path.is_dir() && !path.is_symlink() {
        for entry in std::fs::read_dir(path)? {
            give(&entry?.path(), uid, gid)?;
        }
    }
    Ok(())
}

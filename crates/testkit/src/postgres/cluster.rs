//! One running server in one directory.

use std::fs::{self, File, TryLockError};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::binaries::{self, Binaries, find_binaries};

/// What a crash of the machine may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing that was committed.
    Durable,
    /// Everything: for tests.
    Test,
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    binaries: Binaries,
    port: u16,
    password: String,
    child: Child,
}

const SUPERUSER: &str = "nitejar_owner";

impl Cluster {
    /// Starts a server whose data live in `dir`, made from a template when new. A server that an earlier, killed
    /// process left running there is stopped first.
    pub fn start(dir: &Path, durability: Durability) -> Result<Self> {
        let binaries = find_binaries()?;
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let data = dir.join("data");
        if !data.join("PG_VERSION").exists() {
            let _ = fs::remove_dir_all(&data);
            copy_template(&binaries, &dir)?;
        }
        stop_leftover(&data)?;
        binaries::give_to_service_user(&dir)?;
        check_reachable(&dir)?;
        let password = fs::read_to_string(dir.join("password"))?.trim().to_owned();
        // Another process may take the port between our look and the server's: then the next one.
        for _ in 0..5 {
            let port = free_port()?;
            let mut child = spawn(&binaries, &dir, port, durability)?;
            if wait_ready(&dir, port, &mut child)? {
                return Ok(Self { dir, binaries, port, password, child });
            }
        }
        let log = fs::read_to_string(dir.join("postgres.log")).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(15).collect();
        bail!(
            "PostgreSQL did not start in {}:\n{}",
            dir.display(),
            tail.into_iter().rev().collect::<Vec<_>>().join("\n")
        )
    }

    /// The owner's address of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where `psql` and the like are.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) else { return };
        // SIGINT: fast shutdown, with a checkpoint, which may take long on a busy disk. SIGQUIT: without one; the next start reads
        // the log. SIGKILL leaves its processes behind, which are in the way of that start.
        for signal in [rustix::process::Signal::INT, rustix::process::Signal::QUIT] {
            let _ = rustix::process::kill_process(pid, signal);
            let until = Instant::now() + Duration::from_secs(15);
            while Instant::now() < until {
                if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(binaries: &Binaries, dir: &Path, port: u16, durability: Durability) -> Result<Child> {
    let log = File::options().create(true).append(true).open(dir.join("postgres.log"))?;
    binaries::give_to_service_user(&dir.join("postgres.log"))?;
    let mut command = binaries::command(&binaries.dir.join("postgres"))?;
    let socket = dir.display().to_string();
    command.arg("-D").arg(dir.join("data")).arg("-p").arg(port.to_string());
    let mut set = |setting: &str| {
        command.arg("-c").arg(setting);
    };
    set("listen_addresses=127.0.0.1");
    set("max_connections=300");
    set("shared_buffers=64MB");
    set("timezone=UTC");
    set("log_min_messages=warning");
    // Unix socket paths have room for about 100 characters.
    set(&format!("unix_socket_directories={}", if socket.len() < 80 { socket.as_str() } else { "" }));
    if durability == Durability::Test {
        for setting in [
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
            "autovacuum_naptime=10s",
            "max_wal_size=4GB",
            "checkpoint_timeout=1h",
        ] {
            set(setting);
        }
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().context("starting postgres")
}

fn wait_ready(dir: &Path, port: u16, child: &mut Child) -> Result<bool> {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        // The eighth line of postmaster.pid says `ready` once connections are taken.
        let pid_file = fs::read_to_string(dir.join("data/postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = pid_file.lines().map(str::trim).collect();
        if lines.first().is_some_and(|pid| *pid == child.id().to_string())
            && lines.get(3).is_some_and(|p| *p == port.to_string())
            && lines.get(7).is_some_and(|state| *state == "ready")
        {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    bail!("PostgreSQL in {} was not ready after 60 s; see postgres.log there", dir.display())
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Stops the server that a killed process left in this directory.
fn stop_leftover(data: &Path) -> Result<()> {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return Ok(()) };
    let Some(pid) = text.lines().next().and_then(|l| l.trim().parse::<i32>().ok()) else { return Ok(()) };
    let runs = || {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&*data.to_string_lossy())
    };
    if runs()
        && let Some(pid) = rustix::process::Pid::from_raw(pid)
    {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let until = Instant::now() + Duration::from_secs(15);
        while runs() {
            if Instant::now() > until {
                bail!(
                    "another PostgreSQL (process {}) uses {} and does not stop",
                    pid.as_raw_nonzero(),
                    data.display()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// The server's user must be able to reach its directory.
fn check_reachable(dir: &Path) -> Result<()> {
    if !binaries::is_root() {
        return Ok(());
    }
    for parent in dir.ancestors().skip(1) {
        let mode = fs::metadata(parent)?.permissions().mode();
        if mode & 0o001 == 0 {
            bail!(
                "PostgreSQL can't run as root, and its own user can't enter {}. Choose another directory \
                 (NITEJAR_DATA_DIR) or chmod o+x it",
                parent.display()
            );
        }
    }
    Ok(())
}

/// initdb takes seconds, a copy of its result a fraction of one: the first start makes a template for all others.
fn copy_template(binaries: &Binaries, dir: &Path) -> Result<()> {
    let cache = cache_dir();
    fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    let template = cache.join(format!("template-{}-v1", binaries.major));
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    if !template.join("data/PG_VERSION").exists() {
        let fresh = cache.join(format!("building-{}", std::process::id()));
        let _ = fs::remove_dir_all(&fresh);
        fs::create_dir_all(&fresh)?;
        let password = random_hex()?;
        fs::write(fresh.join("password"), &password)?;
        fs::set_permissions(fresh.join("password"), fs::Permissions::from_mode(0o600))?;
        binaries::give_to_service_user(&fresh)?;
        let output = binaries::command(&binaries.dir.join("initdb"))?
            .arg("-D")
            .arg(fresh.join("data"))
            .args(["-U", SUPERUSER, "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"])
            .arg(format!("--pwfile={}", fresh.join("password").display()))
            .output()
            .context("running initdb")?;
        if !output.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let _ = fs::remove_dir_all(&template);
        fs::rename(&fresh, &template)?;
    }
    drop(lock);
    for name in ["password", "data"] {
        copy(&template.join(name), &dir.join(name))?;
    }
    fs::set_permissions(dir.join("data"), fs::Permissions::from_mode(0o700))?;
    Ok(())
}

fn cache_dir() -> PathBuf {
    // Root's home is closed to the server's user; a folder in the temporary directory is not.
    let user = rustix::process::getuid().as_raw();
    std::env::var_os("NITEJAR_PG_CACHE")
        .map(PathBuf::from)
        .unwrap_or_else(|| std::env::temp_dir().join(format!("nitejar-pg-{user}")))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else {
        fs::copy(from, to)?;
    }
    Ok(())
}

fn random_hex() -> Result<String> {
    use std::io::Read as _;
    let mut bytes = [0u8; 24];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hex::encode(bytes))
}

/// Whether a lock on a file could be had at once.
pub(crate) fn try_lock(file: &File) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e.into()),
    }
}

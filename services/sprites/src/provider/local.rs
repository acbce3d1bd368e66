//! Sprites as process trees on this machine: a directory each, a runner each.
//!
//! A runner is detached: when this service is killed, Sprites go on, and the restarted service finds them by their
//! arguments in `/proc`. There is no pid file that could be wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::BoxFuture;
use nitejar_common::error::{Error, Result};
use nitejar_common::id::is_id;
use nitejar_runner::procs;
use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::Instant;

use super::{SpriteProvider, Start};

/// How long a runner may take to end its jobs before it is killed.
const GRACE: Duration = Duration::from_secs(6);
/// A runner's log is begun anew beyond that.
const LOG: u64 = 4 << 20;

/// See the module.
#[derive(Clone, Debug)]
pub struct LocalProvider {
    root: PathBuf,
    runner: PathBuf,
    gateway: String,
}

impl LocalProvider {
    /// `root`: holds the Sprites. `runner`: the `nitejar-runner` binary. `gateway`: what runners dial.
    pub fn new(root: &Path, runner: &Path, gateway: &str) -> Result<Self> {
        fs::create_dir_all(root)?;
        Ok(Self { root: root.canonicalize()?, runner: runner.to_owned(), gateway: gateway.to_owned() })
    }

    fn dir(&self, sprite: &str) -> Result<PathBuf> {
        // The id becomes a path: nothing but an id may.
        if !is_id(sprite, "sprite") {
            return Err(Error::internal(format!("not a Sprite's id: {sprite:?}")));
        }
        Ok(self.root.join(sprite))
    }

    /// Sprite → its runner's process.
    fn runners(&self) -> BTreeMap<String, i32> {
        let mut found = BTreeMap::new();
        for p in procs::all().values().filter(|p| p.state != 'Z') {
            let args = procs::args(p.pid);
            let runs = args.first().is_some_and(|a| Path::new(a).file_name() == self.runner.file_name());
            let dir = args.iter().position(|a| a == "--dir").and_then(|at| args.get(at + 1));
            if let (true, Some(dir)) = (runs, dir)
                && let Some(id) = Path::new(dir).strip_prefix(&self.root).ok().and_then(|p| p.to_str())
            {
                found.insert(id.to_owned(), p.pid);
            }
        }
        found
    }

    async fn start_runner(&self, start: &Start) -> Result<()> {
        let dir = self.dir(&start.sprite)?;
        if self.runners().contains_key(&start.sprite) {
            self.stop_runner(&start.sprite).await?;
        }
        make_dir(&dir)?;
        let token = dir.join("token");
        let _ = fs::remove_file(&token);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&token)?;
        std::io::Write::write_all(&mut file, start.token.expose().as_bytes())?;
        let log = dir.join("runner.log");
        let long = fs::metadata(&log).is_ok_and(|m| m.len() > LOG);
        let log = fs::OpenOptions::new().create(true).append(!long).write(true).truncate(long).open(&log)?;
        let mut command = Command::new(&self.runner);
        command
            .arg("--gateway")
            .arg(&self.gateway)
            .arg("--token-file")
            .arg(&token)
            .arg("--concurrency")
            .arg(start.concurrency.clamp(1, 16).to_string())
            .arg("--dir")
            .arg(&dir)
            // The service's own environment holds secrets; a runner gets none of it.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("NITEJAR_SPRITE_DIR", &dir)
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(false);
        // Its end is noticed by `running`; tokio takes the zombie.
        drop(
            command
                .spawn()
                .map_err(|e| Error::internal(format!("starting {}: {e}", self.runner.display())))?,
        );
        Ok(())
    }

    async fn stop_runner(&self, sprite: &str) -> Result<()> {
        let dir = self.dir(sprite)?;
        let mark = format!("NITEJAR_SPRITE_DIR={}", dir.display());
        if let Some(pid) = self.runners().get(sprite) {
            procs::signal(*pid, Signal::TERM);
            let until = Instant::now() + GRACE;
            while Instant::now() < until && procs::one(*pid).is_some_and(|p| p.state != 'Z') {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        // The runner if it hangs, with all below it; and whatever a killed runner left.
        procs::kill_all(|| {
            let all = procs::all();
            let runner = self.runners().get(sprite).copied();
            let marked = all.values().filter(|p| procs::has_env(p.pid, &mark)).map(|p| p.pid);
            procs::tree(&all, runner.into_iter().chain(marked).collect::<Vec<_>>())
        })
        .await;
        Ok(())
    }
}

fn make_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    for inner in ["home", "jobs"] {
        fs::create_dir_all(dir.join(inner))?;
    }
    Ok(())
}

impl SpriteProvider for LocalProvider {
    fn name(&self) -> &'static str {
        "local"
    }

    fn provision<'a>(&'a self, sprite: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { make_dir(&self.dir(sprite)?) })
    }

    fn start<'a>(&'a self, start: &'a Start) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.start_runner(start))
    }

    fn stop<'a>(&'a self, sprite: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.stop_runner(sprite))
    }

    fn destroy<'a>(&'a self, sprite: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.stop_runner(sprite).await?;
            match fs::remove_dir_all(self.dir(sprite)?) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
                _ => Ok(()),
            }
        })
    }

    fn running(&self) -> BoxFuture<'_, Result<BTreeSet<String>>> {
        Box::pin(async move { Ok(self.runners().into_keys().collect()) })
    }

    fn all(&self) -> BoxFuture<'_, Result<BTreeSet<String>>> {
        Box::pin(async move {
            let names = fs::read_dir(&self.root)?.flatten().filter_map(|e| e.file_name().into_string().ok());
            Ok(names.filter(|n| is_id(n, "sprite")).collect())
        })
    }
}

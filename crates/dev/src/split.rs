//! The five services as five processes: what a cluster does, on one machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result};
use tokio::process::{Child, Command};

use crate::keys::{Keys, SERVICES};
use crate::settings::{self, Places, Tweaks};

/// Running processes.
#[derive(Debug)]
pub struct Split {
    /// Where everything is.
    pub places: Places,
    dir: PathBuf,
    binaries: PathBuf,
    children: BTreeMap<&'static str, Child>,
    quiet: bool,
}

impl Split {
    /// Writes all five configurations. Nothing runs yet.
    pub fn prepare(
        keys: &Keys,
        places: Places,
        tweaks: &Tweaks,
        dir: &Path,
        binaries: &Path,
        quiet: bool,
    ) -> Result<Self> {
        let dir = dir.join("split");
        std::fs::create_dir_all(&dir)?;
        for (name, config) in settings::configs(keys, &places, tweaks)? {
            use std::io::Write as _;
            let path = dir.join(format!("{name}.toml"));
            let _ = std::fs::remove_file(&path);
            let mut file =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(toml::to_string(&config)?.as_bytes())?;
        }
        Ok(Self { places, dir, binaries: binaries.to_owned(), children: BTreeMap::new(), quiet })
    }

    /// Starts all five.
    pub fn spawn_all(&mut self) -> Result<()> {
        SERVICES.into_iter().try_for_each(|name| self.spawn(name))
    }

    /// The process of a running one.
    pub fn pid(&self, name: &str) -> Result<i32> {
        let pid = self.children.get(name).and_then(Child::id);
        Ok(i32::try_from(pid.with_context(|| format!("{name} does not run"))?)?)
    }

    /// Starts one, with the configuration it had.
    pub fn spawn(&mut self, name: &'static str) -> Result<()> {
        let binary = self.binaries.join(format!("nitejar-{name}"));
        let mut command = Command::new(&binary);
        command.arg("--config").arg(self.dir.join(format!("{name}.toml")));
        // A group of its own: Ctrl-C reaches us, and we tell them in the right order.
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        if self.quiet {
            let log = File::options().create(true).append(true).open(self.dir.join(format!("{name}.log")))?;
            command.stdout(log.try_clone()?).stderr(log);
        }
        let child = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
        self.children.insert(name, child);
        Ok(())
    }

    /// `kill -9`.
    pub async fn kill(&mut self, name: &'static str) -> Result<()> {
        if let Some(mut child) = self.children.remove(name) {
            child.kill().await?;
        }
        Ok(())
    }

    /// The logs' directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Drains all and waits; what does not end is killed. The gateway settles with the others what it leased of them, and
    /// sprites ends the long polls that would hold the gateway up: these two go first.
    pub async fn stop(mut self) {
        for part in [&["gateway", "sprites"][..], &["tenancy", "billing", "audit"]] {
            let mut leaving: Vec<_> = part.iter().filter_map(|name| self.children.remove(name)).collect();
            for child in &leaving {
                if let Some(pid) = child.id().and_then(|p| rustix::process::Pid::from_raw(p.cast_signed())) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                }
            }
            for child in &mut leaving {
                let ended = tokio::time::timeout(std::time::Duration::from_secs(25), child.wait()).await;
                if ended.is_err() {
                    let _ = child.kill().await;
                }
            }
        }
    }

    /// Waits until one of them ends; answers which.
    pub async fn first_end(&mut self) -> &'static str {
        loop {
            for (name, child) in &mut self.children {
                if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                    return name;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }
}

//! One job: its processes, their limits, its end.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Assignment, Completion, Line, Trouble};
use crate::mask::Mask;
use crate::{output, procs};

/// The exit code by which a command says that the work is not for it.
const DECLINED: i32 = 79;
/// The reply, in bytes.
const REPLY: usize = 64 * 1024;
const WATCH: Duration = Duration::from_millis(200);

/// What one job needs.
#[derive(Clone, Debug)]
pub struct Running {
    /// The gateway.
    pub api: Arc<Api>,
    /// The job.
    pub job: Arc<Assignment>,
    /// The Sprite's directory.
    pub dir: PathBuf,
    /// Kill it: the runner stops.
    pub stop: CancellationToken,
}

/// Why a job was ended by us.
enum Killed {
    Limit(&'static str),
    Cancelled,
    Lost,
    Stopped,
}

impl Running {
    /// Runs the job and reports its end.
    pub async fn run(self) {
        let lost = CancellationToken::new();
        let (lines, from) = mpsc::channel(1000);
        let pump =
            tokio::spawn(output::pump(Arc::clone(&self.api), Arc::clone(&self.job), from, lost.clone()));
        let completion = self.execute(lines, &lost).await;
        // All output is acknowledged before the end is told.
        let _ = pump.await;
        if lost.is_cancelled() {
            tracing::warn!(job = self.job.job_id, "the lease is lost; the job was killed");
            return;
        }
        loop {
            match self.api.complete(&self.job, &completion).await {
                Ok(()) | Err(Trouble::LeaseLost | Trouble::Unauthorized) => return,
                Err(Trouble::Refused(why)) => {
                    tracing::error!(job = self.job.job_id, why, "the end was refused");
                    return;
                }
                Err(Trouble::Again(why)) => {
                    tracing::debug!(job = self.job.job_id, why, "the end is told again");
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
        }
    }

    async fn execute(&self, lines: mpsc::Sender<Line>, lost: &CancellationToken) -> Completion {
        let job = &self.job;
        let mask = Mask::new(job.masked.iter().filter_map(|name| job.env.get(name)).map(String::as_str));
        let scratch = self.dir.join("jobs").join(format!("{}-{}", job.job_id, job.lease_epoch));
        let result = scratch.join("result");
        let end = |outcome: &str, reason: &str, exit_code| Completion {
            lease_epoch: job.lease_epoch,
            outcome: outcome.to_owned(),
            reason: reason.to_owned(),
            exit_code,
            output: String::new(),
        };
        let mut child = match self.spawn(&scratch, &result) {
            Ok(child) => child,
            Err(error) => {
                tracing::error!(job = job.job_id, %error, "the job could not be started");
                return end("infrastructure", "start_failed", None);
            }
        };
        let pid = child.id().and_then(|p| i32::try_from(p).ok()).unwrap_or(0);
        let mut readers = tokio::task::JoinSet::new();
        if let Some(out) = child.stdout.take() {
            readers.spawn(output::read("stdout", out, mask.clone(), lines.clone()));
        }
        if let Some(err) = child.stderr.take() {
            readers.spawn(output::read("stderr", err, mask.clone(), lines.clone()));
        }
        let mut tree =
            Tree { root: pid, mark: format!("NITEJAR_LEASE={}", self.lease()), seen: BTreeSet::new() };
        let ended = self.watch(&mut child, &mut tree, lost).await;
        // Nothing of a job outlives it, however it ended.
        procs::kill_all(|| tree.alive()).await;
        let status = child.wait().await;
        // With all writers dead the pipes end; a moment for what is still in them.
        let _ = tokio::time::timeout(Duration::from_secs(5), async {
            while readers.join_next().await.is_some() {}
        })
        .await;
        let mut completion = match (ended, status) {
            (Some(Killed::Limit(reason)), _) => {
                let text = format!("killed: {reason}");
                let _ = lines.send(Line { stream: "system".into(), text }).await;
                end("failed", reason, None)
            }
            (Some(Killed::Cancelled), _) => end("cancelled", "cancelled", None),
            (Some(Killed::Lost), _) => end("infrastructure", "lease_lost", None),
            (Some(Killed::Stopped), _) => end("infrastructure", "sprite_stopped", None),
            (None, Ok(status)) => match status.code() {
                Some(0) => end("succeeded", "", Some(0)),
                Some(DECLINED) => end("declined", "declined", Some(DECLINED)),
                Some(code) => end("failed", "exit_code", Some(code)),
                None => end("failed", "signal", None),
            },
            (None, Err(error)) => {
                tracing::error!(job = job.job_id, %error, "the job's end is not known");
                end("infrastructure", "wait_failed", None)
            }
        };
        completion.output = reply(&result, &mask);
        let _ = std::fs::remove_dir_all(&scratch);
        completion
    }

    /// Names this attempt: an older one of the same job must not take our processes for its own.
    fn lease(&self) -> String {
        format!("{}-{}", self.job.job_id, self.job.lease_epoch)
    }

    fn spawn(&self, scratch: &Path, result: &Path) -> std::io::Result<Child> {
        let job = &self.job;
        let home = self.dir.join("home");
        std::fs::create_dir_all(&home)?;
        std::fs::create_dir_all(scratch)?;
        let item = scratch.join("work_item.json");
        std::fs::write(&item, &job.work_item_json)?;
        let mut command = Command::new("sh");
        command
            .args(["-c", &job.command])
            .current_dir(&home)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()))
            .env("LANG", "C.UTF-8")
            .env("HOME", &home)
            .env("TRACEPARENT", &job.traceparent)
            .env("NITEJAR_ATTEMPT", job.attempt.to_string())
            .envs(&job.env)
            .env("NITEJAR_JOB_ID", &job.job_id)
            .env("NITEJAR_LEASE", self.lease())
            .env("NITEJAR_SPRITE_DIR", &self.dir)
            .env("NITEJAR_WORK_ITEM", &item)
            .env("NITEJAR_RESULT", result)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command.spawn()
    }

    /// Waits for the end, or brings it about. None: the command ended by itself.
    async fn watch(&self, child: &mut Child, tree: &mut Tree, lost: &CancellationToken) -> Option<Killed> {
        let job = &self.job;
        let deadline = Instant::now() + Duration::from_secs(job.timeout_seconds);
        let beat = Duration::from_secs((job.lease_seconds / 3).max(1));
        let mut next_beat = Instant::now() + beat;
        let mut tick = tokio::time::interval(WATCH);
        let mut turn = 0u32;
        loop {
            tokio::select! {
                _ = child.wait() => return None,
                () = tokio::time::sleep_until(deadline) => return Some(Killed::Limit("timed_out")),
                () = lost.cancelled() => return Some(Killed::Lost),
                () = self.stop.cancelled() => return Some(Killed::Stopped),
                () = tokio::time::sleep_until(next_beat) => {
                    next_beat = Instant::now() + beat;
                    match self.api.heartbeat(job).await {
                        Ok(false) | Err(Trouble::Again(_) | Trouble::Refused(_)) => {}
                        Ok(true) => return Some(Killed::Cancelled),
                        Err(Trouble::LeaseLost | Trouble::Unauthorized) => {
                            lost.cancel();
                            return Some(Killed::Lost);
                        }
                    }
                }
                _ = tick.tick() => {
                    turn = turn.wrapping_add(1);
                    if let Some(reason) = self.over_limit(tree, turn) {
                        return Some(Killed::Limit(reason));
                    }
                }
            }
        }
    }

    fn over_limit(&self, tree: &mut Tree, turn: u32) -> Option<&'static str> {
        let job = &self.job;
        let all = procs::all();
        let mut mine = tree.find(&all);
        mine.retain(|pid| all.get(pid).is_some_and(|p| p.state != 'Z'));
        let sum = |f: fn(&procs::Proc) -> u64| mine.iter().filter_map(|pid| all.get(pid)).map(f).sum::<u64>();
        if sum(|p| p.cpu) / procs::TICKS > job.cpu_seconds {
            return Some("cpu_limit");
        }
        if sum(|p| p.memory) > job.memory_mib << 20 {
            return Some("memory_limit");
        }
        if u64::try_from(mine.len()).unwrap_or(u64::MAX) > job.processes {
            return Some("process_limit");
        }
        // A walk over the disk costs more than a look at /proc.
        if turn.is_multiple_of(5) && procs::disk_use(&self.dir) > job.disk_mib << 20 {
            return Some("disk_limit");
        }
        None
    }
}

/// A job's processes: descendants of its shell; what was seen as one earlier; and orphans, which come to us as the
/// subreaper, known by the job's mark in their environment.
struct Tree {
    root: i32,
    mark: String,
    seen: BTreeSet<(i32, u64)>,
}

impl Tree {
    fn find(&mut self, all: &std::collections::BTreeMap<i32, procs::Proc>) -> BTreeSet<i32> {
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        let known = self.seen.iter().filter(|(pid, start)| all.get(pid).is_some_and(|p| p.start == *start));
        let mut roots: Vec<i32> = known.map(|(pid, _)| *pid).collect();
        roots.push(self.root);
        roots.extend(
            all.values()
                .filter(|p| p.pgrp == self.root || (p.ppid == me && procs::has_env(p.pid, &self.mark)))
                .map(|p| p.pid),
        );
        let found = procs::tree(all, roots);
        self.seen = found.iter().filter_map(|pid| all.get(pid)).map(|p| (p.pid, p.start)).collect();
        found
    }

    fn alive(&mut self) -> BTreeSet<i32> {
        self.find(&procs::all())
    }
}

/// What the command wrote as its reply.
fn reply(path: &Path, mask: &Mask) -> String {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut bytes = Vec::new();
    // A job may have put anything there: a pipe that nobody writes to would hold us for ever, a link could lead anywhere.
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits().cast_signed();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
    let Some(file) = file.ok().filter(|f| f.metadata().is_ok_and(|m| m.is_file())) else {
        return String::new();
    };
    if file.take(REPLY as u64).read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    let mut text = mask.apply(&String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}"));
    let mut end = text.len().min(REPLY);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

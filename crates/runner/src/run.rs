//! The runner's life.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Trouble};
use crate::job::Running;
use crate::procs;

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// `http://host:port`
    pub gateway: String,
    /// `njr_…`
    pub token: String,
    /// The Sprite's directory.
    pub dir: PathBuf,
    /// Jobs at the same time.
    pub concurrency: u32,
    /// Exit after so long without an answer.
    pub offline_exit: Duration,
}

/// How long a claim waits at the gateway.
const WAIT: u32 = 20;

/// Runs until told to stop. 0: told to. 3: the token is no longer valid. 4: the gateway was silent for too long.
pub async fn run(options: Options) -> u8 {
    let api = match Api::new(&options.gateway, &options.token) {
        Ok(api) => Arc::new(api),
        Err(error) => {
            tracing::error!(%error, "no HTTP client");
            return 1;
        }
    };
    // Orphans of jobs come to us instead of to init: none can run away.
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        tracing::warn!(%error, "can't adopt orphans");
    }
    let stop = CancellationToken::new();
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return 1 };
    let Ok(mut interrupt) = signal(SignalKind::interrupt()) else { return 1 };
    let mut jobs = JoinSet::new();
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let mut sweep = tokio::time::interval(Duration::from_secs(1));
    // A claim that is under way is never dropped: its answer may hold jobs that are leased to us already.
    let mut claiming: Option<tokio::task::JoinHandle<_>> = None;
    let code = 'life: loop {
        while jobs.try_join_next().is_some() {}
        let free = options.concurrency.saturating_sub(u32::try_from(jobs.len()).unwrap_or(u32::MAX));
        if claiming.is_none() && free > 0 {
            let api = Arc::clone(&api);
            // With jobs running, a short wait: one that ends makes room for more.
            let wait = if jobs.is_empty() { WAIT } else { 2 };
            claiming = Some(tokio::spawn(async move { api.claim(wait, free).await }));
        }
        let claim = async {
            match &mut claiming {
                Some(handle) => handle.await.unwrap_or_else(|e| Err(Trouble::Again(e.to_string()))),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => break 'life 0,
            _ = interrupt.recv() => break 'life 0,
            _ = sweep.tick() => {
                if api.silence() > options.offline_exit {
                    tracing::error!("the gateway has been silent for too long");
                    break 'life 4;
                }
                if jobs.is_empty() {
                    procs::reap_adopted(me, &BTreeSet::new());
                }
            }
            Some(_) = jobs.join_next(), if free == 0 => {}
            claimed = claim => {
            claiming = None;
            match claimed {
                Ok(claimed) if claimed.stop => break 'life 0,
                Ok(claimed) => {
                    for assignment in claimed.assignments {
                        tracing::info!(job = assignment.job_id, attempt = assignment.attempt, "job");
                        let running = Running {
                            api: Arc::clone(&api),
                            job: Arc::new(assignment),
                            dir: options.dir.clone(),
                            stop: stop.clone(),
                        };
                        jobs.spawn(running.run());
                    }
                }
                Err(Trouble::Unauthorized) => break 'life 3,
                Err(Trouble::Refused(why)) => {
                    tracing::error!(why, "the claim was refused");
                    break 'life 1;
                }
                Err(Trouble::LeaseLost | Trouble::Again(_)) => {
                    let jitter = u64::from(std::process::id() % 200);
                    tokio::time::sleep(Duration::from_millis(300 + jitter)).await;
                }
            }
            }
        }
    };
    stop.cancel();
    // A moment to say how the killed jobs ended; their processes are dead by then.
    let _ = tokio::time::timeout(Duration::from_secs(4), async { while jobs.join_next().await.is_some() {} })
        .await;
    procs::kill_all(|| {
        let mut all = procs::tree(&procs::all(), [me]);
        all.remove(&me);
        all
    })
    .await;
    code
}

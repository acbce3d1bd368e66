//! Soft, then hard shutdown.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long draining may take before the rest is dropped.
pub const DRAIN: Duration = Duration::from_secs(20);

/// Two tokens: after `soft` nothing new is taken and what is under way ends; after `hard` everything stops.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Drain.
    pub soft: CancellationToken,
    /// Stop.
    pub hard: CancellationToken,
}

impl Shutdown {
    /// Not yet asked to stop.
    pub fn new() -> Self {
        Self::default()
    }

    /// Drains, and stops for good when that takes too long.
    pub fn begin(&self) {
        self.soft.cancel();
        let hard = self.hard.clone();
        tokio::spawn(async move {
            tokio::time::sleep(DRAIN).await;
            hard.cancel();
        });
    }

    /// The first SIGTERM or SIGINT drains, the second stops.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if this.soft.is_cancelled() {
                    this.hard.cancel();
                } else {
                    tracing::info!("draining; a second signal stops at once");
                    this.begin();
                }
            }
        });
        Ok(())
    }
}

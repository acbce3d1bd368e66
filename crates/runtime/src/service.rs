//! A bound service, and the `main` that all of them share.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::Parser as _;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use nitejar_common::clock::{SharedClock, system};
use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::server::AuthLayer;
use nitejar_common::grpc::tls::Tls;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::config::{self, Args, Listen, TelemetryConfig, Validate};
use crate::lifecycle::Shutdown;
use crate::probes::Probes;
use crate::telemetry;

/// Before a loop that failed is started again; twice as long after each further failure.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// A loop that has run for so long is well again.
const STEADY: Duration = Duration::from_secs(10);

type Loop = Arc<dyn Fn(CancellationToken) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// The listeners of a service.
#[derive(Debug)]
pub struct Listeners {
    /// For callers.
    pub main: TcpListener,
    /// For probes and metrics.
    pub probes: TcpListener,
}

impl Listeners {
    /// Binds both.
    pub async fn bind(listen: &Listen) -> Result<Self> {
        let bind = async |addr: SocketAddr| {
            TcpListener::bind(addr)
                .await
                .map_err(|e| Error::internal(format!("can't listen on {addr}: {e}. Is another one running?")))
        };
        Ok(Self { main: bind(listen.main).await?, probes: bind(listen.probes).await? })
    }

    /// Where callers connect.
    pub fn main_addr(&self) -> Result<SocketAddr> {
        Ok(self.main.local_addr()?)
    }
}

/// What serves the callers until the shutdown.
pub type Serve = Box<dyn FnOnce(TcpListener, Shutdown) -> BoxFuture<'static, Result<()>> + Send>;

/// A service that holds its ports and is ready to run.
pub struct Bound {
    name: &'static str,
    /// Where callers connect.
    pub addr: SocketAddr,
    /// Where probes and metrics are.
    pub probes_addr: SocketAddr,
    listeners: Listeners,
    serve: Serve,
    probes: Probes,
    loops: Vec<(&'static str, Loop)>,
    draining: CancellationToken,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bound({} on {})", self.name, self.addr)
    }
}

impl Bound {
    /// A service that serves in its own way.
    pub fn new(name: &'static str, listeners: Listeners, probes: Probes, serve: Serve) -> Result<Self> {
        Ok(Self {
            name,
            addr: listeners.main.local_addr()?,
            probes_addr: listeners.probes.local_addr()?,
            listeners,
            serve,
            probes,
            loops: Vec::new(),
            draining: CancellationToken::new(),
        })
    }

    /// A service that serves gRPC behind `auth`, to whoever shows a certificate where there is `tls`.
    pub fn grpc(
        name: &'static str,
        listeners: Listeners,
        tls: Option<Arc<Tls>>,
        probes: Probes,
        routes: Routes,
        auth: AuthLayer,
    ) -> Result<Self> {
        let serve: Serve = Box::new(move |listener, shutdown| {
            Box::pin(async move {
                let (health, health_service) = tonic_health::server::health_reporter();
                health.set_service_status("", tonic_health::ServingStatus::Serving).await;
                let draining = shutdown.soft.clone();
                let soft = async move {
                    draining.cancelled().await;
                    health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
                };
                let server = tonic::transport::Server::builder()
                    .tcp_nodelay(true)
                    .http2_keepalive_interval(Some(Duration::from_secs(20)))
                    .layer(auth)
                    .add_routes(routes.add_service(health_service));
                let served: BoxFuture<'_, _> = match tls {
                    None => {
                        Box::pin(server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), soft))
                    }
                    Some(tls) => {
                        let accepted = tls.accept(listener, shutdown.soft.clone());
                        Box::pin(server.serve_with_incoming_shutdown(accepted, soft))
                    }
                };
                tokio::select! {
                    result = served => Ok(result?),
                    () = shutdown.hard.cancelled() => Ok(()),
                }
            })
        });
        Self::new(name, listeners, probes, serve)
    }

    /// Adds a background loop. One that fails or panics is started again, and counts against readiness meanwhile.
    #[must_use]
    pub fn background<F>(
        mut self,
        name: &'static str,
        run: impl Fn(CancellationToken) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.loops.push((name, Arc::new(move |stop| Box::pin(run(stop)))));
        self
    }

    /// Cancels this token when draining begins: for handlers that would otherwise wait for long.
    #[must_use]
    pub fn draining(mut self, token: CancellationToken) -> Self {
        self.draining = token;
        self
    }

    /// Serves until the shutdown, then drains.
    pub async fn run(self, shutdown: Shutdown) -> Result<()> {
        let mut tasks = JoinSet::new();
        let failures = Arc::new(AtomicU32::new(0));
        // Loops stop after the callers are gone: a last request may still leave something for them.
        let stop_loops = CancellationToken::new();
        for (name, run) in self.loops {
            tasks.spawn(supervise(self.name, name, run, stop_loops.clone(), Arc::clone(&failures)));
        }
        let healthy = Arc::clone(&failures);
        let probes = self.probes.check("loops", move || {
            let failing = healthy.load(Ordering::Relaxed) >= 3;
            async move { if failing { Err(Error::unavailable()) } else { Ok(()) } }
        });
        let router = probes.router(shutdown.soft.clone());
        let probes_stop = stop_loops.clone();
        let probes_listener = self.listeners.probes;
        tasks.spawn(async move {
            let _ = axum::serve(probes_listener, router)
                .with_graceful_shutdown(probes_stop.cancelled_owned())
                .await;
        });
        let (soft, draining) = (shutdown.soft.clone(), self.draining);
        tokio::spawn(async move {
            soft.cancelled().await;
            draining.cancel();
        });
        tracing::info!(service = self.name, addr = %self.addr, "ready");
        let result = (self.serve)(self.listeners.main, shutdown.clone()).await;
        stop_loops.cancel();
        let all = async { while tasks.join_next().await.is_some() {} };
        tokio::select! {
            () = all => {}
            () = shutdown.hard.cancelled() => {}
            () = tokio::time::sleep(crate::lifecycle::DRAIN) => {}
        }
        result
    }
}

async fn supervise(
    service: &'static str,
    name: &'static str,
    run: Loop,
    stop: CancellationToken,
    failures: Arc<AtomicU32>,
) {
    let mut wait = FIRST_WAIT;
    // How many of `failures` are this loop's.
    let mut own = 0;
    while !stop.is_cancelled() {
        let mut running = std::pin::pin!(std::panic::AssertUnwindSafe(run(stop.clone())).catch_unwind());
        let result = tokio::select! {
            result = &mut running => result,
            () = tokio::time::sleep(STEADY) => {
                failures.fetch_sub(std::mem::take(&mut own), Ordering::Relaxed);
                wait = FIRST_WAIT;
                running.await
            }
        };
        if stop.is_cancelled() {
            break;
        }
        let why = match result {
            Ok(Ok(())) => "ended".to_owned(),
            Ok(Err(error)) => error.log_text(),
            Err(_) => "panicked".to_owned(),
        };
        failures.fetch_add(1, Ordering::Relaxed);
        own += 1;
        tracing::error!(service, name, why, "background loop; starting it again");
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(Duration::from_secs(10));
    }
}

#[derive(Debug, clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// The `main` of a service: flags, configuration, telemetry, `bind`, run until a signal.
pub fn main<C, B>(
    name: &'static str,
    telemetry: fn(&C) -> &TelemetryConfig,
    bind: impl Fn(C, SharedClock) -> B,
) -> ExitCode
where
    C: Serialize + DeserializeOwned + Default + Validate,
    B: Future<Output = Result<Bound>>,
{
    let args = Cli::parse().args;
    let config = match config::load::<C>(name, &args) {
        Ok(config) => config,
        Err(problems) => {
            say(&problems.to_string());
            return ExitCode::from(2);
        }
    };
    if args.check_config {
        say("ok");
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let guard = match telemetry::init(name, telemetry(&config)) {
            Ok(guard) => guard,
            Err(error) => {
                say(&format!("telemetry: {error}"));
                return ExitCode::FAILURE;
            }
        };
        let shutdown = Shutdown::new();
        let result = async {
            shutdown.on_signals()?;
            // Whoever has a database opens it here, and with it applies what is pending.
            let bound = bind(config, system()).await?;
            if args.migrate { Ok(()) } else { bound.run(shutdown).await }
        }
        .await;
        drop(guard);
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&error.log_text());
                ExitCode::FAILURE
            }
        }
    })
}

#[expect(clippy::print_stderr, reason = "before and after telemetry there is only the terminal")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_runs_well_again_counts_no_more_against_readiness() {
        let (failures, runs) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let count = Arc::clone(&runs);
        let run: Loop = Arc::new(move |stop| {
            let failing = count.fetch_add(1, Ordering::Relaxed) < 4;
            Box::pin(async move {
                if failing {
                    return Err(Error::unavailable());
                }
                stop.cancelled().await;
                Ok(())
            })
        });
        let stop = CancellationToken::new();
        let supervised = tokio::spawn(supervise("test", "loop", run, stop.clone(), Arc::clone(&failures)));
        while runs.load(Ordering::Relaxed) < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(failures.load(Ordering::Relaxed), 4);
        tokio::time::sleep(STEADY * 2).await;
        assert_eq!(failures.load(Ordering::Relaxed), 0);
        stop.cancel();
        supervised.await.unwrap();
    }
}

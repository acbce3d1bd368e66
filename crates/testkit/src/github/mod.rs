//! A stateful fake GitHub on a port: the part of its REST API, OAuth and webhooks that our App uses, with faults to
//! inject. It plays api.github.com and github.com at once. It never judges itself: what it answers, and what we ask it,
//! is held against GitHub's own OpenAPI description in the tests.
//!
//! Everything can also be driven over HTTP under `/_fake/`, so that the demo and the chaos test, which run in other
//! processes, can use it.

mod api;
mod control;
mod state;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{any, get, post};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use state::{Exchange, Fault};

use state::State as Memory;

/// What the fake needs to know of our App.
#[derive(Clone, Debug)]
pub struct FakeGithubConfig {
    /// Where it listens; port 0: any.
    pub addr: SocketAddr,
    /// The App's id.
    pub app_id: u64,
    /// The App's name in addresses.
    pub app_slug: String,
    /// The App's OAuth client.
    pub client_id: String,
    /// Its secret.
    pub client_secret: String,
    /// The App's public key, PEM.
    pub public_key: String,
    /// Signs webhooks.
    pub webhook_secret: String,
    /// Where webhooks go.
    pub webhook_url: String,
    /// Where a browser goes after an install.
    pub setup_url: String,
    /// Where it keeps what outlives a restart; none: nothing does.
    pub file: Option<PathBuf>,
}

/// A running fake. Dropping it stops it.
#[derive(Debug)]
pub struct FakeGithub {
    addr: SocketAddr,
    shared: Shared,
    stop: CancellationToken,
}

/// What requests share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) config: Arc<FakeGithubConfig>,
    pub(crate) http: reqwest::Client,
    state: Arc<Mutex<Memory>>,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, Memory> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FakeGithub {
    /// Starts it.
    pub async fn start(config: FakeGithubConfig) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind(config.addr).await?;
        let addr = listener.local_addr()?;
        #[expect(clippy::disallowed_methods, reason = "testkit stands below the crate that has the client")]
        let http = reqwest::Client::new();
        let state = config.file.as_deref().map(Memory::open).transpose()?.unwrap_or_default();
        let shared = Shared { config: Arc::new(config), http, state: Arc::new(Mutex::new(state)) };
        let router = Router::new()
            .route("/_fake/installations", post(control::install))
            .route("/_fake/deliver", post(control::deliver))
            .route("/_fake/issues", post(control::open_issue))
            .route("/_fake/comments", post(control::comment))
            .route("/_fake/faults", post(control::fault))
            .route("/_fake/scanning_keys", post(control::scanning_key))
            .route("/_fake/lose_next", post(control::lose_next))
            .route("/_fake/state", get(control::show))
            .fallback(any(api::handle))
            .layer(middleware::from_fn_with_state(shared.clone(), keep))
            .with_state(shared.clone());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            let server = axum::serve(listener, router).with_graceful_shutdown(stopped.cancelled_owned());
            if let Err(error) = server.await {
                tracing::error!(%error, "the fake GitHub ended");
            }
        });
        Ok(Self { addr, shared, stop })
    }

    /// `http://127.0.0.1:port`
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What was asked and answered, the newest last; at most 2,000.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.state().exchanges.iter().cloned().collect()
    }
}

/// Keeps what a request may have changed, before it is answered.
async fn keep(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let changes = request.method() != Method::GET;
    let response = next.run(request).await;
    if let Some(file) = shared.config.file.as_deref().filter(|_| changes)
        && let Err(error) = shared.state().keep(file)
    {
        tracing::error!(%error, "the fake GitHub can't keep its state");
    }
    response
}

impl Drop for FakeGithub {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

//! `/livez`, `/readyz`, `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use futures_util::future::BoxFuture;
use nitejar_common::error::Result;
use tokio_util::sync::CancellationToken;

type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// What must hold for the service to be ready.
#[derive(Clone, Default)]
pub struct Probes {
    checks: Vec<(&'static str, Check)>,
}

impl std::fmt::Debug for Probes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.checks.iter().map(|(name, _)| name)).finish()
    }
}

impl Probes {
    /// Adds a check; it has two seconds.
    #[must_use]
    pub fn check<F>(mut self, name: &'static str, check: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.checks.push((name, Arc::new(move || Box::pin(check()))));
        self
    }

    /// Runs all checks: (name, whether it holds).
    pub async fn run(&self) -> Vec<(&'static str, bool)> {
        let checks = self.checks.iter().map(|(name, check)| async {
            let result = tokio::time::timeout(Duration::from_secs(2), check()).await;
            (*name, matches!(result, Ok(Ok(()))))
        });
        futures_util::future::join_all(checks).await
    }

    /// The routes. Not ready while draining.
    pub fn router(self, draining: CancellationToken) -> Router {
        Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state((self, draining))
    }
}

async fn ready(State((probes, draining)): State<(Probes, CancellationToken)>) -> impl IntoResponse {
    let mut checks = probes.run().await;
    checks.push(("not_draining", !draining.is_cancelled()));
    let ok = checks.iter().all(|(_, holds)| *holds);
    let body: serde_json::Map<_, _> =
        checks.into_iter().map(|(name, holds)| (name.to_owned(), holds.into())).collect();
    (if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body))
}

async fn metrics() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], crate::telemetry::metrics_text())
}

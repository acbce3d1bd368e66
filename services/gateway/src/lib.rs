//! The gateway. See `README.md`.

mod authn;
mod authz;
pub mod config;
mod denials;
mod meter;
pub mod openapi;
mod problem;
mod service;
pub mod transcode;
mod upstreams;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use nitejar_common::clock::SharedClock;
use nitejar_common::error::Result;
use nitejar_common::token::Signer;
use nitejar_runtime::probes::Probes;
use nitejar_runtime::service::{Bound, Listeners, Serve};

use authn::cache::Credentials;
use denials::Denials;
use meter::Meter;
use service::Gateway;
use transcode::routes::Routes;
use upstreams::Services;

pub use config::Config;

/// Opens the ports.
pub async fn bind(config: Config, clock: SharedClock) -> Result<Bound> {
    let listeners = Listeners::bind(&config.listen).await?;
    let signer = Signer::new("gateway", &config.token.signing_key, clock.clone())?;
    let services = Services::new(&config.upstreams, signer)?;
    let (denials, recorder) = Denials::new(services.audit.clone(), clock.clone());
    let credentials = Arc::new(Credentials::new(clock.clone()));
    let tenancy = services.tenancy.clone();
    let meter = Arc::new(Meter::new(services.billing.clone(), clock.clone()));
    let gateway = Arc::new(Gateway {
        routes: Routes::new(),
        probes: services.clone(),
        services,
        clock,
        credentials: Arc::clone(&credentials),
        denials,
        meter: Arc::clone(&meter),
        metrics: service::Metrics::new(),
        webhooks: tokio::sync::Semaphore::new(16),
    });
    let router = Router::new()
        .route("/openapi.json", get(openapi::serve))
        .route("/webhooks/github", post(webhooks::github::receive))
        .fallback(service::handle)
        .method_not_allowed_fallback(service::handle)
        .with_state(Arc::clone(&gateway));
    let probes = upstream_probes(&gateway);
    let serve: Serve = Box::new(move |listener, shutdown| {
        Box::pin(async move {
            let soft = shutdown.soft.clone();
            let server = axum::serve(listener, router).with_graceful_shutdown(soft.cancelled_owned());
            tokio::select! {
                result = server => result?,
                () = shutdown.hard.cancelled() => {}
                // Long polls and streams of clients that never leave would hold us up for ever.
                () = async { shutdown.soft.cancelled().await; tokio::time::sleep(std::time::Duration::from_secs(5)).await } => {}
            }
            Ok(())
        })
    });
    Ok(Bound::new("gateway", listeners, probes, serve)?
        .background("denials", move |stop| {
            let recorder = recorder.clone();
            async move { recorder.run(stop).await }
        })
        .background("credentials", move |stop| {
            let (credentials, tenancy) = (Arc::clone(&credentials), tenancy.clone());
            async move { credentials.run(&tenancy, stop).await }
        })
        .background("meter", move |stop| {
            let meter = Arc::clone(&meter);
            async move { meter.run(stop).await }
        }))
}

/// Ready when every service answers that it is.
fn upstream_probes(gateway: &Arc<Gateway>) -> Probes {
    let mut probes = Probes::default();
    for name in ["tenancy", "sprites", "billing", "audit"] {
        let gateway = Arc::clone(gateway);
        probes = probes.check(name, move || {
            let gateway = Arc::clone(&gateway);
            async move { gateway.probes.healthy(name).await }
        });
    }
    probes
}

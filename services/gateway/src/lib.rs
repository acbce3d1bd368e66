//! The gateway. See `README.md`.

mod address;
mod admission;
mod authn;
mod authz;
mod bodies;
mod body;
mod breaker;
mod call;
pub mod config;
mod cookies;
mod denials;
mod finish;
mod idempotency;
mod limits;
mod listen;
mod meter;
pub mod openapi;
mod own_key;
mod page_tokens;
mod problem;
mod service;
mod shedding;
mod slugs;
mod support;
pub mod transcode;
mod unread;
mod upstreams;
mod web;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use http::{HeaderName, HeaderValue, Method, header};
use nitejar_common::clock::SharedClock;
use nitejar_common::error::Result;
use nitejar_common::token::Signer;
use nitejar_runtime::probes::Probes;
use nitejar_runtime::service::{Bound, Listeners, Serve};
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate as _, SizeAbove};
use tower_http::cors::{AllowOrigin, CorsLayer};

use authn::cache::Credentials;
use bodies::Bodies;
use denials::Denials;
use limits::Limits;
use listen::Bounds;
use meter::Meter;
use own_key::OwnKey;
use page_tokens::PageTokens;
use service::Gateway;
use shedding::Shedding;
use transcode::routes::Routes;
use upstreams::Services;

pub use config::Config;

/// Opens the ports.
pub async fn bind(config: Config, clock: SharedClock) -> Result<Bound> {
    let listeners = Listeners::bind(&config.listen).await?;
    let tls = config.tls.load()?;
    let signer = Signer::new("gateway", &config.token.signing_key, clock.clone())?;
    let services = Services::new(&config.upstreams, &signer, tls.as_ref())?;
    let (denials, recorder) = Denials::new(services.audit.clone(), clock.clone());
    let credentials = Arc::new(Credentials::new(clock.clone()));
    let (tenancy, shared_by) = (services.tenancy.clone(), services.tenancy.clone());
    let meter = Arc::new(Meter::new(services.billing.clone(), clock.clone()));
    let limits = Arc::new(Limits::new(config.rate_limits.clone(), clock.clone()));
    let gateway = Arc::new(Gateway {
        routes: Routes::new(),
        probes: services.clone(),
        services,
        clock,
        credentials: Arc::clone(&credentials),
        denials,
        meter: Arc::clone(&meter),
        metrics: service::Metrics::new(),
        webhooks: webhooks::Doors::new(),
        bodies: Bodies::new(bodies::Bounds { bytes: 256 << 20, each: 1000, for_known: 0 }),
        limits: Arc::clone(&limits),
        requests: Shedding::new(config.max_requests as usize),
        streams: Shedding::new(config.max_streams as usize),
        page_tokens: PageTokens::new(&config.token.signing_key),
        lasting: OwnKey::new(&config.token.signing_key, "lasting"),
        trusted_proxies: config.trusted_proxies,
    });
    let router = web::routes(Router::new())
        .route("/openapi.json", get(openapi::serve))
        .route("/webhooks/github", post(webhooks::github::receive))
        .route("/webhooks/github/secret-scanning", post(webhooks::secret_scanning::receive))
        .fallback(service::handle)
        .method_not_allowed_fallback(service::wrong_method)
        .with_state(Arc::clone(&gateway));
    // Of less than a kilobyte nothing is won; events must leave as they come.
    let worth = SizeAbove::new(1024).and(NotForContentType::SSE);
    let router = router.layer(CompressionLayer::new().compress_when(worth));
    let router = allow_origins(router, &config.cors_origins);
    let probes = upstream_probes(&gateway);
    let bounds = Bounds {
        idle: std::time::Duration::from_secs(config.idle_seconds.into()),
        connections: config.max_connections as usize,
    };
    let serve: Serve =
        Box::new(move |listener, shutdown| Box::pin(listen::serve(listener, router, bounds, shutdown)));
    Ok(Bound::new("gateway", listeners, probes, serve)?
        .background("denials", move |stop| {
            let recorder = recorder.clone();
            async move { recorder.run(stop).await }
        })
        .background("rate limits", move |stop| {
            let (limits, tenancy) = (Arc::clone(&limits), shared_by.clone());
            async move { limits.run(&tenancy, stop).await }
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

/// Lets pages of other origins use the API. Credentials are keys in a header, never cookies.
fn allow_origins(router: Router, origins: &[String]) -> Router {
    if origins.is_empty() {
        return router;
    }
    let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            idempotency::KEY,
            service::LAST_EVENT_ID,
        ])
        .expose_headers([
            header::ETAG,
            header::RETRY_AFTER,
            limits::LIMIT,
            limits::POLICY,
            idempotency::REPLAYED,
            HeaderName::from_static("x-request-id"),
        ])
        .max_age(std::time::Duration::from_secs(600));
    router.layer(cors)
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

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use tower::ServiceExt as _;

    use super::*;

    async fn allowed(origins: &[&str], origin: &str, verb: Method) -> (u16, Option<String>) {
        let origins: Vec<String> = origins.iter().map(ToString::to_string).collect();
        let router = allow_origins(Router::new().route("/", get(|| async { "ok" })), &origins);
        let request = Request::builder().method(verb).uri("/").header(header::ORIGIN, origin);
        let answer = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let origin = answer.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        (answer.status().as_u16(), origin.map(|o| o.to_str().unwrap().to_owned()))
    }

    #[tokio::test]
    async fn only_the_configured_origins_are_allowed() {
        let ours = "https://app.example.com";
        assert_eq!(allowed(&[ours], ours, Method::OPTIONS).await, (200, Some(ours.into())));
        assert_eq!(allowed(&[ours], ours, Method::GET).await, (200, Some(ours.into())));
        for other in ["https://app.example.com.evil.example", "http://app.example.com", "null"] {
            assert_eq!(allowed(&[ours], other, Method::OPTIONS).await, (200, None), "{other}");
        }
        assert_eq!(allowed(&[], ours, Method::OPTIONS).await, (405, None));
    }
}

//! The gateway's configuration.

use ipnet::IpNet;
use nitejar_runtime::config::{
    Listen, Problems, TelemetryConfig, TlsConfig, TokenConfig, Upstreams, Validate,
};
use serde::{Deserialize, Serialize};

pub use crate::limits::RateLimits;

/// See the fields.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// Logs, traces, metrics.
    pub telemetry: TelemetryConfig,
    /// Its key; it trusts nobody's.
    pub token: TokenConfig,
    /// TLS between our services.
    pub tls: TlsConfig,
    /// The services.
    pub upstreams: Upstreams,
    /// Requests a minute.
    pub rate_limits: RateLimits,
    /// Networks of our own load balancers, such as `10.0.0.0/8`: what they say in `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Requests under way at a time, 2 to 100,000; half of them for one organization. More are refused with 503.
    pub max_requests: u32,
    /// Streams at a time, 2 to 100,000; half of them for one organization.
    pub max_streams: u32,
    /// Pages of these origins may use the API from a browser, such as `https://app.example.com`. Empty: none.
    pub cors_origins: Vec<String>,
    /// Seconds until a connection without a whole request head is closed, 1 to 3600. Longer than the load balancer keeps its
    /// own idle connections, or it would send requests on ones that just close.
    pub idle_seconds: u32,
    /// Connections at a time, 1 to 1,000,000; more wait. Each may cost some 100 KiB while it sends its head.
    pub max_connections: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::local(8080, 7205),
            telemetry: TelemetryConfig::default(),
            token: TokenConfig::default(),
            tls: TlsConfig::default(),
            upstreams: Upstreams::default(),
            rate_limits: RateLimits::default(),
            trusted_proxies: Vec::new(),
            max_requests: 1_000,
            max_streams: 5_000,
            cors_origins: Vec::new(),
            idle_seconds: 75,
            max_connections: 20_000,
        }
    }
}

impl Validate for Config {
    fn validate(&self, problems: &mut Problems) {
        self.telemetry.validate(problems);
        self.token.validate(problems);
        self.tls.validate(problems);
        self.upstreams.validate(problems);
        problems.check((1..=3600).contains(&self.idle_seconds), "idle_seconds", "must be 1 to 3600");
        let connections = (1..=1_000_000).contains(&self.max_connections);
        problems.check(connections, "max_connections", "must be 1 to 1000000");
        let places = (2..=100_000).contains(&self.max_requests) && (2..=100_000).contains(&self.max_streams);
        problems.check(places, "max_requests, max_streams", "must be 2 to 100000");
        let limits = [self.rate_limits.key, self.rate_limits.org, self.rate_limits.address];
        let sensible = limits.iter().all(|limit| (1..=1_000_000_000).contains(limit));
        problems.check(sensible, "rate_limits", "must be 1 to 1000000000");
        let origin = |text: &String| {
            let uri = text.parse::<http::Uri>().unwrap_or_default();
            // A browser's origin is compared as a whole: with anything after the host it would never match.
            match (uri.scheme_str(), uri.authority()) {
                (Some(scheme @ ("http" | "https")), Some(host)) => *text == format!("{scheme}://{host}"),
                _ => false,
            }
        };
        let must = "must be origins such as https://app.example.com, without a path";
        problems.check(self.cors_origins.iter().all(origin), "cors_origins", must);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_origins_and_nothing_more() {
        let wrong = |origin: &str| {
            let mut problems = Problems::default();
            Config { cors_origins: vec![origin.to_owned()], ..Config::default() }.validate(&mut problems);
            problems.to_string().contains("cors_origins")
        };
        for origin in ["https://app.example.com", "http://localhost:3000"] {
            assert!(!wrong(origin), "{origin}");
        }
        for origin in
            ["*", "null", "app.example.com", "https://a.example/", "https://a.example/x", "ftp://a.example"]
        {
            assert!(wrong(origin), "{origin}");
        }
    }
}

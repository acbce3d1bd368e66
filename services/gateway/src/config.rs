//! The gateway's configuration.

use nitejar_runtime::config::{Listen, Problems, TelemetryConfig, TokenConfig, Upstreams, Validate};
use serde::{Deserialize, Serialize};

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
    /// The services.
    pub upstreams: Upstreams,
    /// Pages of these origins may use the API from a browser, such as `https://app.example.com`. Empty: none.
    pub cors_origins: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::local(8080, 7205),
            telemetry: TelemetryConfig::default(),
            token: TokenConfig::default(),
            upstreams: Upstreams::default(),
            cors_origins: Vec::new(),
        }
    }
}

impl Validate for Config {
    fn validate(&self, problems: &mut Problems) {
        self.telemetry.validate(problems);
        self.token.validate(problems);
        self.upstreams.validate(problems);
        let origin = |text: &String| {
            let uri = text.parse::<http::Uri>();
            uri.is_ok_and(|u| u.scheme().is_some() && u.authority().is_some()) && !text.ends_with('/')
        };
        let must = "must be origins such as https://app.example.com, without a path";
        problems.check(self.cors_origins.iter().all(origin), "cors_origins", must);
    }
}

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
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::local(8080, 7205),
            telemetry: TelemetryConfig::default(),
            token: TokenConfig::default(),
            upstreams: Upstreams::default(),
        }
    }
}

impl Validate for Config {
    fn validate(&self, problems: &mut Problems) {
        self.telemetry.validate(problems);
        self.token.validate(problems);
        self.upstreams.validate(problems);
    }
}

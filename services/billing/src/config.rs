//! The billing service's configuration.

use nitejar_db::DatabaseConfig;
use nitejar_runtime::config::{
    Listen, Problems, TelemetryConfig, TlsConfig, TokenConfig, Upstreams, Validate,
};
use serde::{Deserialize, Serialize};

/// See the fields.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// Logs, traces, metrics.
    pub telemetry: TelemetryConfig,
    /// Whom it trusts.
    pub token: TokenConfig,
    /// TLS between our services.
    pub tls: TlsConfig,
    /// The others.
    pub upstreams: Upstreams,
    /// Its database.
    pub database: DatabaseConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::local(7103, 7203),
            telemetry: TelemetryConfig::default(),
            token: TokenConfig::default(),
            tls: TlsConfig::default(),
            upstreams: Upstreams::default(),
            database: DatabaseConfig::default(),
        }
    }
}

impl Validate for Config {
    fn validate(&self, problems: &mut Problems) {
        self.telemetry.validate(problems);
        self.token.validate(problems);
        self.tls.validate(problems);
        self.upstreams.validate(problems);
        problems.extend(self.database.problems());
    }
}

//! The audit service's configuration.

use nitejar_db::DatabaseConfig;
use nitejar_runtime::config::{Listen, Problems, TelemetryConfig, TlsConfig, TokenConfig, Validate};
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
    /// Its database.
    pub database: DatabaseConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::local(7104, 7204),
            telemetry: TelemetryConfig::default(),
            token: TokenConfig::default(),
            tls: TlsConfig::default(),
            database: DatabaseConfig::default(),
        }
    }
}

impl Validate for Config {
    fn validate(&self, problems: &mut Problems) {
        self.telemetry.validate(problems);
        self.token.validate(problems);
        self.tls.validate(problems);
        problems.extend(self.database.problems());
    }
}

//! The tenancy service's configuration.

use std::collections::BTreeMap;

use nitejar_common::secret::Secret;
use nitejar_db::DatabaseConfig;
use nitejar_runtime::config::{Listen, Problems, TelemetryConfig, TokenConfig, Upstreams, Validate};
use serde::{Deserialize, Serialize};

use crate::domain::envelope::MasterKey;

/// The master key of examples and laptops. With it, nothing starts but a sandbox.
pub const SAMPLE_MASTER_KEY: &str = "c2FtcGxlIG1hc3RlciBrZXksIGZvciBzYW5kYm94ZXM=";

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
    /// The others.
    pub upstreams: Upstreams,
    /// Its database.
    pub database: DatabaseConfig,
    /// A place to try things out: the sample master key is allowed.
    pub sandbox: bool,
    /// Wraps the organizations' data keys: base64 of 32 bytes.
    pub master_key: Secret,
    /// Operators: name → SHA-256 of their `njo_…` key, in hex.
    pub operators: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::local(7101, 7201),
            telemetry: TelemetryConfig::default(),
            token: TokenConfig::default(),
            upstreams: Upstreams::default(),
            database: DatabaseConfig::default(),
            sandbox: false,
            master_key: Secret::default(),
            operators: BTreeMap::new(),
        }
    }
}

impl Validate for Config {
    fn validate(&self, problems: &mut Problems) {
        self.telemetry.validate(problems);
        self.token.validate(problems);
        self.upstreams.validate(problems);
        problems.extend(self.database.problems());
        problems.check(
            MasterKey::parse(&self.master_key).is_some(),
            "master_key",
            "must be the base64 of 32 bytes",
        );
        let sample = self.master_key == Secret::new(SAMPLE_MASTER_KEY);
        problems.check(
            self.sandbox || !sample,
            "master_key",
            "must not be the sample key, unless sandbox = true",
        );
        let hashes =
            self.operators.values().all(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit()));
        problems.check(hashes, "operators", "must be name = SHA-256 of the key, 64 hex digits");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_real_master_key_nothing_starts_outside_of_a_sandbox() {
        let problems = |key: &str, sandbox: bool| {
            let mut problems = Problems::default();
            Config { master_key: Secret::new(key), sandbox, ..Config::default() }.validate(&mut problems);
            problems.to_string().lines().filter(|l| l.starts_with("master_key")).count()
        };
        assert_eq!(problems("", false), 1);
        assert_eq!(problems("", true), 1, "a sandbox needs one too");
        assert_eq!(problems("c2hvcnQ=", false), 1);
        assert_eq!(problems(SAMPLE_MASTER_KEY, false), 1);
        assert_eq!(problems(SAMPLE_MASTER_KEY, true), 0);
        assert_eq!(problems("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", false), 0);
    }
}

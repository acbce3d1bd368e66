//! The sprites service's configuration.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nitejar_common::secret::Secret;
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
    /// Sprites' machines.
    pub provider: ProviderConfig,
    /// Runners' tokens are derived from it: at least 32 characters.
    pub runner_secret: Secret,
    /// A lease ends so many seconds after the last heartbeat, 2 to 600.
    pub lease_seconds: u32,
    /// A Sprite with nothing to do is stopped after so many seconds, 1 to 86,400.
    pub idle_seconds: u32,
    /// Sprites that run at the same time, 1 to 100,000.
    pub max_running_sprites: u32,
    /// The GitHub App.
    pub github: GithubConfig,
}

/// Where Sprites live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// Nowhere: jobs wait.
    #[default]
    None,
    /// In processes beside this one. For laptops and sandboxes only: a job can read what this process can, its keys too.
    Local,
}

/// Machines of Sprites.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderConfig {
    /// `none` or `local`.
    pub kind: ProviderKind,
    /// Holds the Sprites' directories.
    pub root: PathBuf,
    /// The `nitejar-runner` binary.
    pub runner: PathBuf,
    /// What runners dial.
    pub gateway: String,
}

impl Default for ProviderConfig {
    fn default() -> Self {
        Self {
            kind: ProviderKind::None,
            root: PathBuf::from("/var/lib/nitejar/sprites"),
            runner: PathBuf::from("nitejar-runner"),
            gateway: "http://127.0.0.1:8080".into(),
        }
    }
}

/// Our GitHub App. Without an id GitHub is off.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GithubConfig {
    /// The App's id; 0: GitHub is off.
    pub app_id: u64,
    /// The App's name in addresses.
    pub app_slug: String,
    /// OAuth client id.
    pub client_id: String,
    /// OAuth client secret.
    pub client_secret: Secret,
    /// The App's private key: PEM, or PEM in base64 where it must be one line.
    pub private_key: Secret,
    /// Signs webhooks. Without it nothing starts: an unsigned webhook is never believed.
    pub webhook_secret: Secret,
    /// REST API.
    pub api_url: String,
    /// Web pages and OAuth.
    pub web_url: String,
    /// How often to ask GitHub for webhooks that did not reach us, in seconds, 1 to 3,600.
    pub redelivery_seconds: u32,
}

impl GithubConfig {
    /// The key as PEM.
    pub(crate) fn private_pem(&self) -> Secret {
        let text = self.private_key.expose();
        let decoded = STANDARD.decode(text.trim()).ok().and_then(|pem| String::from_utf8(pem).ok());
        decoded.map_or_else(|| self.private_key.clone(), Secret::new)
    }
}

impl Default for GithubConfig {
    fn default() -> Self {
        Self {
            app_id: 0,
            app_slug: String::new(),
            client_id: String::new(),
            client_secret: Secret::default(),
            private_key: Secret::default(),
            webhook_secret: Secret::default(),
            api_url: "https://api.github.com".into(),
            web_url: "https://github.com".into(),
            redelivery_seconds: 120,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::local(7102, 7202),
            telemetry: TelemetryConfig::default(),
            token: TokenConfig::default(),
            tls: TlsConfig::default(),
            upstreams: Upstreams::default(),
            database: DatabaseConfig::default(),
            provider: ProviderConfig::default(),
            runner_secret: Secret::default(),
            lease_seconds: 30,
            idle_seconds: 60,
            max_running_sprites: 8,
            github: GithubConfig::default(),
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
        problems.check(
            self.runner_secret.expose().len() >= 32,
            "runner_secret",
            "must have at least 32 characters",
        );
        problems.check((2..=600).contains(&self.lease_seconds), "lease_seconds", "must be 2 to 600");
        problems.check((1..=86_400).contains(&self.idle_seconds), "idle_seconds", "must be 1 to 86400");
        problems.check(
            (1..=100_000).contains(&self.max_running_sprites),
            "max_running_sprites",
            "must be 1 to 100000",
        );
        let gateway = &self.provider.gateway;
        problems.check(gateway.starts_with("http"), "provider.gateway", "must be http(s)://host:port");
        let g = &self.github;
        if g.app_id != 0 {
            problems.check(
                g.webhook_secret.expose().len() >= 16,
                "github.webhook_secret",
                "must have at least 16 characters",
            );
            problems.check(!g.app_slug.is_empty(), "github.app_slug", "must be the App's name in addresses");
            let often = (1..=3600).contains(&g.redelivery_seconds);
            problems.check(often, "github.redelivery_seconds", "must be 1 to 3600");
            problems.check(!g.client_id.is_empty(), "github.client_id", "must be the App's client id");
            let key = jsonwebtoken::EncodingKey::from_rsa_pem(g.private_pem().expose().as_bytes());
            problems.check(key.is_ok(), "github.private_key", "must be the App's private key in PEM");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_without_a_webhook_secret_does_not_start() {
        let mut problems = Problems::default();
        Config { github: GithubConfig { app_id: 7, ..GithubConfig::default() }, ..Config::default() }
            .validate(&mut problems);
        assert!(problems.to_string().contains("github.webhook_secret must have"), "{problems}");
    }
}

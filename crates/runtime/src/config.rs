//! Configuration: defaults < file < environment, and any key `x` also as `x_file`, the path of a file that holds it.
//!
//! ```text
//! nitejar-sprites --config sprites.toml
//! NITEJAR_SPRITES__DATABASE__URL_FILE=/run/secrets/url nitejar-sprites --check-config
//! ```

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use nitejar_common::grpc::client::Upstream;
use nitejar_common::grpc::tls::{Files, Tls};
use nitejar_common::secret::Secret;
use nitejar_common::token::Signer;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// The flags that every service has.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// A TOML file. The environment (NITEJAR_<SERVICE>__KEY__SUBKEY) goes before it, defaults come after it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Say whether the configuration is good, and exit.
    #[arg(long)]
    pub check_config: bool,
    /// Apply what is pending to the database, and exit.
    #[arg(long)]
    pub migrate: bool,
}

/// Every problem found, to be shown together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    /// Notes `key must …` unless `ok`.
    pub fn check(&mut self, ok: bool, key: &str, must: &str) {
        if !ok {
            self.0.push(format!("{key} {must}"));
        }
    }

    /// Adds a section's problems.
    pub fn extend(&mut self, more: Vec<(&'static str, &'static str)>) {
        self.0.extend(more.into_iter().map(|(key, must)| format!("{key} {must}")));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// A configuration that can judge itself.
pub trait Validate {
    /// Notes every value that is out of its range.
    fn validate(&self, problems: &mut Problems);
}

/// Loads a service's configuration, or gives every problem.
pub fn load<T>(service: &str, args: &Args) -> Result<T, Problems>
where
    T: Serialize + DeserializeOwned + Default + Validate,
{
    let one = |text: String| Problems(vec![text]);
    let mut figment = Figment::from(Serialized::defaults(T::default()));
    if let Some(path) = &args.config {
        if !path.is_file() {
            return Err(one(format!("--config {} is not a file", path.display())));
        }
        figment = figment.merge(Toml::file_exact(path));
    }
    let prefix = format!("NITEJAR_{}__", service.to_uppercase());
    figment = figment.merge(Env::prefixed(&prefix).split("__"));
    let mut value: serde_json::Value = figment.extract().map_err(|e| one(readable(e)))?;
    let mut problems = Problems::default();
    read_files(&mut value, "", &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    let config: T = Figment::from(Serialized::defaults(value)).extract().map_err(|e| one(readable(e)))?;
    config.validate(&mut problems);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// Never quotes a value: it might be a secret in the wrong place.
fn readable(error: figment::Error) -> String {
    use figment::error::Kind;
    error
        .into_iter()
        .map(|e| {
            let key = e.path.join(".");
            match e.kind {
                Kind::InvalidType(_, wanted) => format!("{key} must be {wanted}"),
                Kind::InvalidValue(_, wanted) => format!("{key} must be {wanted}"),
                Kind::UnknownField(name, known) => {
                    let at = if key.is_empty() { name } else { format!("{key}.{name}") };
                    format!("{at} is not known; there are {}", known.join(", "))
                }
                Kind::UnknownVariant(_, known) => format!("{key} must be one of {}", known.join(", ")),
                Kind::MissingField(name) => format!("{key}.{name} is missing"),
                other => format!("{key}: {other}"),
            }
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Replaces every `x_file` by `x` with the file's trimmed content.
fn read_files(value: &mut serde_json::Value, at: &str, problems: &mut Problems) {
    let Some(map) = value.as_object_mut() else { return };
    let keys: Vec<String> = map.keys().cloned().collect();
    for key in keys {
        let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        if let Some(base) = key.strip_suffix("_file")
            && map.contains_key(base)
            && let Some(serde_json::Value::String(file)) = map.remove(&key)
        {
            match std::fs::read_to_string(&file) {
                Ok(text) => {
                    map.insert(base.to_owned(), text.trim().into());
                }
                Err(error) => {
                    problems.check(false, &path, &format!("names {file}, which can't be read: {error}"))
                }
            }
        } else if let Some(inner) = map.get_mut(&key) {
            read_files(inner, &path, problems);
        }
    }
}

/// Where a service listens. Port 0: any free one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// gRPC (the gateway: HTTP for everybody).
    pub main: SocketAddr,
    /// Probes and metrics.
    pub probes: SocketAddr,
}

impl Listen {
    /// On this machine only.
    pub fn local(main: u16, probes: u16) -> Self {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self { main: at(main), probes: at(probes) }
    }
}

/// Where the other services are, as `http://host:port`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstreams {
    /// Of the tenancy service.
    pub tenancy: String,
    /// Of the sprites service.
    pub sprites: String,
    /// Of the billing service.
    pub billing: String,
    /// Of the audit service.
    pub audit: String,
    /// A connection stays with one replica: after so long there is a new one, so that new replicas get their share.
    pub connection_seconds: NonZeroU32,
}

impl Upstreams {
    /// One of them, as `signer` calls it.
    pub fn open(
        &self,
        name: &'static str,
        signer: &Arc<Signer>,
        tls: Option<&Arc<Tls>>,
    ) -> nitejar_common::Result<Upstream> {
        let uri = match name {
            "tenancy" => &self.tenancy,
            "sprites" => &self.sprites,
            "billing" => &self.billing,
            "audit" => &self.audit,
            other => return Err(nitejar_common::Error::internal(format!("no service {other}"))),
        };
        let age = Duration::from_secs(self.connection_seconds.get().into());
        Upstream::new(name, uri, age, Arc::clone(signer), tls.cloned())
    }
}

impl Default for Upstreams {
    fn default() -> Self {
        let at = |port: u16| format!("http://127.0.0.1:{port}");
        let connection_seconds = const { NonZeroU32::new(300).unwrap() };
        Self { tenancy: at(7101), sprites: at(7102), billing: at(7103), audit: at(7104), connection_seconds }
    }
}

impl Validate for Upstreams {
    fn validate(&self, problems: &mut Problems) {
        for (key, uri) in [
            ("upstreams.tenancy", &self.tenancy),
            ("upstreams.sprites", &self.sprites),
            ("upstreams.billing", &self.billing),
            ("upstreams.audit", &self.audit),
        ] {
            problems.check(uri.starts_with("http://") && uri.len() > 7, key, "must be http://host:port");
        }
    }
}

/// The internal token's keys.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenConfig {
    /// This service's Ed25519 key: base64 of 32 bytes.
    pub signing_key: Secret,
    /// Service → public key, base64. While a key changes: both, with a comma between them.
    pub trusted_keys: BTreeMap<String, String>,
}

/// Mutual TLS between services. All empty: none, for one machine only.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// File with the certificates of our CAs, PEM.
    pub ca: PathBuf,
    /// File with this service's certificate, whose DNS name is the service's, PEM.
    pub cert: PathBuf,
    /// File with its key, PEM.
    pub key: PathBuf,
}

impl TlsConfig {
    fn files(&self) -> Option<Files> {
        let (ca, cert, key) = (self.ca.clone(), self.cert.clone(), self.key.clone());
        (!cert.as_os_str().is_empty()).then_some(Files { ca, cert, key })
    }

    /// Reads the files, and follows their changes for as long as the process runs.
    pub fn load(&self) -> nitejar_common::Result<Option<Arc<Tls>>> {
        let Some(files) = self.files() else { return Ok(None) };
        let tls = Tls::load(files)?;
        let follower = Arc::clone(&tls);
        tokio::spawn(async move { follower.follow(CancellationToken::new()).await });
        Ok(Some(tls))
    }
}

impl Validate for TlsConfig {
    fn validate(&self, problems: &mut Problems) {
        let given = [&self.ca, &self.cert, &self.key].map(|path| !path.as_os_str().is_empty());
        let whole = given.iter().all(|g| *g) || given.iter().all(|g| !*g);
        problems.check(whole, "tls", "must have ca, cert and key, or none of them");
    }
}

impl Validate for TokenConfig {
    fn validate(&self, problems: &mut Problems) {
        let clock = nitejar_common::clock::system();
        let key = nitejar_common::token::Signer::new("check", &self.signing_key, clock.clone());
        problems.check(key.is_ok(), "token.signing_key", "must be the base64 of 32 bytes");
        let trusted = nitejar_common::token::Verifier::new("check", &self.trusted_keys, clock);
        problems.check(trusted.is_ok(), "token.trusted_keys", "must be service = base64 of a public key");
    }
}

/// Logs, traces and metrics.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Where to send traces and metrics (OTLP over gRPC), such as `http://127.0.0.1:4317`. Empty: nowhere.
    pub otlp_endpoint: String,
    /// What to log, such as `info` or `info,nitejar_sprites=debug`.
    pub log: String,
    /// `auto` (pretty on a terminal, JSON otherwise), `pretty` or `json`.
    pub log_format: String,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { otlp_endpoint: String::new(), log: "info".into(), log_format: "auto".into() }
    }
}

impl Validate for TelemetryConfig {
    fn validate(&self, problems: &mut Problems) {
        let formats = ["auto", "pretty", "json"];
        problems.check(
            formats.contains(&self.log_format.as_str()),
            "telemetry.log_format",
            "must be one of auto, pretty, json",
        );
        let endpoint = &self.otlp_endpoint;
        problems.check(
            endpoint.is_empty() || endpoint.starts_with("http://") || endpoint.starts_with("https://"),
            "telemetry.otlp_endpoint",
            "must be http://host:port, or empty",
        );
        let filter = tracing_subscriber::EnvFilter::try_new(&self.log);
        problems.check(filter.is_ok(), "telemetry.log", "must be a list of level or target=level");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        count: u32,
        telemetry: TelemetryConfig,
        token: Inner,
    }
    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        key: Secret,
    }
    impl Default for Sample {
        fn default() -> Self {
            Self { count: 3, telemetry: TelemetryConfig::default(), token: Inner::default() }
        }
    }
    impl Validate for Sample {
        fn validate(&self, problems: &mut Problems) {
            problems.check((1..=9).contains(&self.count), "count", "must be 1 to 9");
            self.telemetry.validate(problems);
        }
    }

    fn from(toml: &str) -> Result<Sample, Problems> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, toml.replace("DIR", &dir.path().display().to_string())).unwrap();
        std::fs::write(dir.path().join("secret"), "hush\n").unwrap();
        load("nobody_sets_this", &Args { config: Some(path), check_config: false, migrate: false })
    }

    #[test]
    fn files_go_before_defaults_and_secrets_come_from_files() {
        let sample = from("count = 5\n[token]\nkey_file = 'DIR/secret'").unwrap();
        assert_eq!((sample.count, sample.token.key.expose()), (5, "hush"));
        assert!(!format!("{sample:?}").contains("hush"));
    }

    #[test]
    fn a_wrong_value_names_its_key_the_reason_and_the_range() {
        let text = |toml: &str| from(toml).unwrap_err().to_string();
        assert_eq!(text("count = 77"), "count must be 1 to 9");
        assert!(text("count = 'many'").starts_with("count must be u32"), "{}", text("count = 'many'"));
        assert!(text("coutn = 1").contains("coutn is not known; there are count"), "{}", text("coutn = 1"));
        assert!(text("[telemetry]\nlog_format = 'xml'").contains("telemetry.log_format must be one of"));
        assert!(text("[token]\nkey_file = 'DIR/none'").contains("token.key_file names"));
        let both = text("count = 0\n[telemetry]\notlp_endpoint = 'ftp://x'");
        assert!(both.contains("count must be") && both.contains("telemetry.otlp_endpoint must be"), "{both}");
        assert!(!text("[token]\nkey = ['hunter2']").contains("hunter2"));
    }
}

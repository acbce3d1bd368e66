//! The tenancy service's configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use chrono::Duration;
use nitejar_common::secret::Secret;
use nitejar_db::DatabaseConfig;
use nitejar_runtime::config::{
    Listen, Problems, TelemetryConfig, TlsConfig, TokenConfig, Upstreams, Validate,
};
use serde::{Deserialize, Serialize};

use crate::domain::envelope::MasterKey;
use crate::domain::receipt::{ReceiptKey, public_key};

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
    /// TLS between our services.
    pub tls: TlsConfig,
    /// The others.
    pub upstreams: Upstreams,
    /// Its database.
    pub database: DatabaseConfig,
    /// A place to try things out: the sample master key is allowed, and operators may make keys for people, as whom they could
    /// then act.
    pub sandbox: bool,
    /// Where people reach the gateway, such as `https://cloud.example.com`: links in mails lead there.
    pub public_url: String,
    /// How mail leaves.
    pub mail: MailConfig,
    /// Who is asked about domains.
    pub dns: DnsConfig,
    /// How long sessions live.
    pub session: SessionConfig,
    /// Wraps the organizations' data keys: base64 of 32 bytes.
    pub master_key: Secret,
    /// Master keys that are not the newest. First a new one is added here in every replica, then it changes places with
    /// `master_key`, then, once `GET /v1/operator/master-key-rotation` says that nothing remains, the old one goes.
    pub former_master_keys: Vec<Secret>,
    /// Signs the receipts of purges: base64 of 32 bytes.
    pub receipt_key: Secret,
    /// Public keys that signed receipts before, base64: they are still shown to whoever checks one.
    pub former_receipt_keys: Vec<String>,
    /// How organizations are deleted.
    pub deletion: DeletionConfig,
    /// So many organizations one person may own to make another: nobody takes all slugs. 1 to 100,000. Those that they are given by
    /// others, or that an operator makes for them, are not refused.
    pub orgs_per_person: u32,
    /// GitHub's API, whose reports of leaked keys are believed; empty: none are.
    pub secret_scanning_url: String,
    /// Operators: name → SHA-256 of their `njo_…` key, in hex. One name for each person. While a key is changed, both with a
    /// comma between them: under a second name its holder would be two operators.
    pub operators: BTreeMap<String, String>,
}

impl Config {
    /// SHA-256 of each operator's keys → name; none when one is not of that form, or stands twice.
    pub(crate) fn operator_keys(&self) -> Option<BTreeMap<[u8; 32], String>> {
        let mut keys = BTreeMap::new();
        for (name, hashes) in &self.operators {
            for hash in hashes.split(',') {
                let hash = hex::decode(hash.trim()).ok()?.try_into().ok()?;
                if keys.insert(hash, name.clone()).is_some() {
                    return None;
                }
            }
        }
        Some(keys)
    }
}

/// The mail server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MailConfig {
    /// `smtps://host`, `smtp://host?tls=required` or, on a laptop, `smtp://host:port`.
    pub smtp_url: String,
    /// Empty: the server wants none.
    pub username: String,
    /// Of that user.
    pub password: Secret,
    /// The sender, such as `Nitejar <no-reply@example.com>`.
    pub from: String,
}

impl Default for MailConfig {
    fn default() -> Self {
        Self {
            smtp_url: String::new(),
            username: String::new(),
            password: Secret::default(),
            from: "Nitejar <no-reply@localhost.localdomain>".into(),
        }
    }
}

/// The DNS.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsConfig {
    /// A recursive resolver, such as `192.0.2.1:53`; none: the system's.
    pub resolver: Option<SocketAddr>,
}

/// How organizations are deleted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeletionConfig {
    /// For so many days a deletion can be taken back. 1 to 365.
    pub recovery_days: u32,
    /// So many days after a purge the last backup with anything of it is gone: what your backups' retention is. 0 to 3,650.
    pub backup_days: u32,
}

impl Default for DeletionConfig {
    fn default() -> Self {
        Self { recovery_days: 30, backup_days: 35 }
    }
}

/// The same as times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeletionTimes {
    pub(crate) recovery: Duration,
    pub(crate) backups: Duration,
}

impl DeletionConfig {
    pub(crate) fn times(&self) -> DeletionTimes {
        let (recovery, backups) = (self.recovery_days.into(), self.backup_days.into());
        DeletionTimes { recovery: Duration::days(recovery), backups: Duration::days(backups) }
    }
}

/// How long sessions live.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionConfig {
    /// Unused for so many hours, a session ends. 1 to 720.
    pub idle_hours: u32,
    /// However it is used, it ends after so many days. 1 to 30, for so long the browser keeps the cookie.
    pub longest_days: u32,
    /// After so many seconds its secret is replaced. 1 to 86,400.
    pub rotate_seconds: u32,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { idle_hours: 7 * 24, longest_days: 30, rotate_seconds: 3_600 }
    }
}

/// The same as times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionTimes {
    pub(crate) idle: Duration,
    pub(crate) longest: Duration,
    pub(crate) rotate: Duration,
}

impl SessionConfig {
    pub(crate) fn times(&self) -> SessionTimes {
        SessionTimes {
            idle: Duration::hours(self.idle_hours.into()),
            longest: Duration::days(self.longest_days.into()),
            rotate: Duration::seconds(self.rotate_seconds.into()),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::local(7101, 7201),
            telemetry: TelemetryConfig::default(),
            token: TokenConfig::default(),
            tls: TlsConfig::default(),
            upstreams: Upstreams::default(),
            database: DatabaseConfig::default(),
            sandbox: false,
            public_url: String::new(),
            mail: MailConfig::default(),
            dns: DnsConfig::default(),
            session: SessionConfig::default(),
            master_key: Secret::default(),
            former_master_keys: Vec::new(),
            receipt_key: Secret::default(),
            former_receipt_keys: Vec::new(),
            deletion: DeletionConfig::default(),
            orgs_per_person: 20,
            secret_scanning_url: "https://api.github.com".into(),
            operators: BTreeMap::new(),
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
        // People, keys and slugs are found across organizations, in the transactions that change them.
        problems.check(
            self.database.more.is_empty(),
            "database.more",
            "must be empty: tenancy has one database",
        );
        problems.check(
            MasterKey::parse(&self.master_key).is_some(),
            "master_key",
            "must be the base64 of 32 bytes",
        );
        let former = self.former_master_keys.iter().all(|key| MasterKey::parse(key).is_some());
        problems.check(former, "former_master_keys", "must each be the base64 of 32 bytes");
        let sample = self.master_key == Secret::new(SAMPLE_MASTER_KEY);
        problems.check(
            self.sandbox || !sample,
            "master_key",
            "must not be the sample key, unless sandbox = true",
        );
        problems.check(
            ReceiptKey::parse(&self.receipt_key).is_some(),
            "receipt_key",
            "must be the base64 of 32 bytes",
        );
        let public = self.former_receipt_keys.iter().all(|key| public_key(key).is_some());
        problems.check(public, "former_receipt_keys", "must be public keys: the base64 of 32 bytes");
        let d = &self.deletion;
        problems.check((1..=365).contains(&d.recovery_days), "deletion.recovery_days", "must be 1 to 365");
        problems.check(d.backup_days <= 3_650, "deletion.backup_days", "must be 0 to 3650");
        problems.check(
            (1..=100_000).contains(&self.orgs_per_person),
            "orgs_per_person",
            "must be 1 to 100000",
        );
        let public = ["http://", "https://"].iter().any(|scheme| self.public_url.starts_with(scheme));
        problems.check(public, "public_url", "must be http://… or https://…");
        let smtp = ["smtp://", "smtps://"].iter().any(|scheme| self.mail.smtp_url.starts_with(scheme));
        problems.check(smtp, "mail.smtp_url", "must be smtp://… or smtps://…");
        let from = self.mail.from.parse::<lettre::message::Mailbox>().is_ok();
        problems.check(from, "mail.from", "must be an address such as Nitejar <no-reply@example.com>");
        let s = &self.session;
        problems.check((1..=720).contains(&s.idle_hours), "session.idle_hours", "must be 1 to 720");
        problems.check((1..=30).contains(&s.longest_days), "session.longest_days", "must be 1 to 30");
        problems.check(
            (1..=86_400).contains(&s.rotate_seconds),
            "session.rotate_seconds",
            "must be 1 to 86400",
        );
        problems.check(
            self.operator_keys().is_some(),
            "operators",
            "must be name = SHA-256 of the key, 64 hex digits; of several keys with commas; none twice",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// While it is changed, an operator has two keys and one name: two names could break the glass for each other.
    #[test]
    fn an_operator_has_one_name_whatever_the_number_of_keys() {
        let (first, second) = ("a1".repeat(32), "b2".repeat(32));
        let operators = |list: &[(&str, String)]| {
            let operators = list.iter().map(|(name, hashes)| ((*name).to_owned(), hashes.clone())).collect();
            Config { operators, ..Config::default() }.operator_keys()
        };
        let known = operators(&[("ann", format!("{first}, {second}"))]).unwrap();
        assert_eq!(known.len(), 2);
        assert!(known.values().all(|name| name == "ann"));
        for wrong in [
            vec![("ann", "a1".repeat(31))],
            vec![("ann", format!("{first},"))],
            vec![("ann", format!("{first},{first}"))],
            vec![("ann", first.clone()), ("bob", first.to_uppercase())],
        ] {
            assert_eq!(operators(&wrong), None, "{wrong:?}");
        }
    }

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

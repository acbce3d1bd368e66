//! How a service reaches its database.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use nitejar_common::error::{Error, Result};
use nitejar_common::secret::Secret;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;

/// What happens at start when migrations are pending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MigrateMode {
    /// Apply them.
    #[default]
    OnStart,
    /// Do not start; say which.
    RefusePending,
    /// Start with tenants as they are: somebody else migrates them. `control` is migrated.
    Later,
}

/// One service's database.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `postgres://user:password@host:port/database` of the owner, who may create roles.
    pub url: Secret,
    /// The passwords of the logins that are made here are derived from it. At least 16 characters.
    pub login_secret: Secret,
    /// Logins that tenants are spread over, 1 to 64. Fixed when the database is first opened.
    pub buckets: u16,
    /// Connections of each login, 1 to 64.
    pub bucket_connections: u32,
    /// Connections to `control`, 1 to 64.
    pub control_connections: u32,
    /// Empty schemas kept ready, 0 to 1,000.
    pub spares: u32,
    /// A connection is closed after serving so many different tenants, 1 to 100,000: Postgres keeps a cache for each.
    pub max_tenants_per_connection: u32,
    /// More databases of this service, as name → URL of the same form: new organizations are placed where there are the
    /// fewest, and `nitejar-dev tenants move` moves one. Names are for ever; at most 15.
    pub more: BTreeMap<String, Secret>,
    /// `on_start` or `refuse_pending`.
    pub migrate: MigrateMode,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            url: Secret::default(),
            login_secret: Secret::default(),
            buckets: 8,
            bucket_connections: 2,
            control_connections: 4,
            spares: 8,
            max_tenants_per_connection: 500,
            more: BTreeMap::new(),
            migrate: MigrateMode::OnStart,
        }
    }
}

impl DatabaseConfig {
    /// Every problem as (key, what must hold).
    pub fn problems(&self) -> Vec<(&'static str, &'static str)> {
        let mut problems = Vec::new();
        let mut check = |ok: bool, key, must| {
            if !ok {
                problems.push((key, must));
            }
        };
        check(
            PgConnectOptions::from_str(self.url.expose()).is_ok() && !self.url.is_empty(),
            "database.url",
            "must be postgres://user:password@host:port/database",
        );
        check(
            self.login_secret.expose().len() >= 16,
            "database.login_secret",
            "must have at least 16 characters",
        );
        check((1..=64).contains(&self.buckets), "database.buckets", "must be 1 to 64");
        // An export reads on one and writes on another.
        check((2..=64).contains(&self.bucket_connections), "database.bucket_connections", "must be 2 to 64");
        check(
            (1..=64).contains(&self.control_connections),
            "database.control_connections",
            "must be 1 to 64",
        );
        check(self.spares <= 1000, "database.spares", "must be 0 to 1000");
        check(
            (1..=100_000).contains(&self.max_tenants_per_connection),
            "database.max_tenants_per_connection",
            "must be 1 to 100000",
        );
        let plain = |name: &str| {
            (1..=40).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        check(
            self.more.len() <= 15
                && self
                    .more
                    .iter()
                    .all(|(name, url)| plain(name) && PgConnectOptions::from_str(url.expose()).is_ok()),
            "database.more",
            "must be at most 15 names of a-z, 0-9 and _, each with postgres://user:password@host:port/database",
        );
        problems
    }

    /// How one of [`DatabaseConfig::more`] is opened.
    pub(crate) fn of_more(&self, url: &Secret) -> Self {
        Self { url: url.clone(), more: BTreeMap::new(), ..self.clone() }
    }

    pub(crate) fn options(&self) -> Result<PgConnectOptions> {
        PgConnectOptions::from_str(self.url.expose()).map_err(|_| {
            Error::internal("database.url is not of the form postgres://user:password@host:port/database")
        })
    }
}

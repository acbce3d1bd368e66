//! The five services' configurations for one machine, as plain values: they become structs in one process, and files for
//! five.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nitejar_common::key;
use serde_json::{Value, json};

use crate::keys::{Keys, SERVICES};

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Places {
    /// Service → where callers connect.
    pub main: BTreeMap<&'static str, SocketAddr>,
    /// Service → probes and metrics.
    pub probes: BTreeMap<&'static str, SocketAddr>,
    /// The fake GitHub.
    pub github: SocketAddr,
    /// Where the mailbox takes mail.
    pub smtp: SocketAddr,
    /// The mailbox's page.
    pub mailbox: SocketAddr,
    /// Who is asked about domains; none: the system's resolver.
    pub dns: Option<SocketAddr>,
    /// Sprites' directories.
    pub sprites: PathBuf,
    /// The runner's binary.
    pub runner: PathBuf,
    /// Service → its database's address.
    pub databases: BTreeMap<&'static str, String>,
}

/// Below the ports that the system gives to connections: none of them takes it between our look and its service.
fn free_listener() -> Result<TcpListener> {
    for _ in 0..1000 {
        let port = 20_000 + u16::try_from(nitejar_common::rng::below(12_000))?;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Ok(listener);
        }
    }
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
}

impl Places {
    /// Free ports on this machine for everything but the gateway.
    pub fn new(
        gateway: SocketAddr,
        sprites: &Path,
        runner: &Path,
        databases: BTreeMap<&'static str, String>,
    ) -> Result<Self> {
        // All are held until all are known, so that none is given twice.
        let mut held = Vec::new();
        let mut free = || -> Result<SocketAddr> {
            let listener = free_listener()?;
            let addr = listener.local_addr()?;
            held.push(listener);
            Ok(addr)
        };
        let mut main: BTreeMap<&'static str, SocketAddr> = BTreeMap::new();
        let mut probes = BTreeMap::new();
        for name in SERVICES {
            let addr = if name == "gateway" && gateway.port() != 0 { gateway } else { free()? };
            main.insert(name, addr);
            probes.insert(name, free()?);
        }
        Ok(Self {
            main,
            probes,
            github: free()?,
            smtp: free()?,
            mailbox: free()?,
            dns: None,
            sprites: sprites.to_owned(),
            runner: runner.to_owned(),
            databases,
        })
    }

    /// The same place, with others of these services.
    pub fn with_other(&self, services: &[&'static str]) -> Result<Self> {
        let (sprites, runner) = (&self.sprites, &self.runner);
        let other = Self::new((Ipv4Addr::LOCALHOST, 0).into(), sprites, runner, BTreeMap::new())?;
        let mut places = self.clone();
        for name in services {
            places.main.insert(name, other.main[name]);
            places.probes.insert(name, other.probes[name]);
        }
        Ok(places)
    }

    /// `http://…` of the gateway.
    pub fn gateway_url(&self) -> String {
        format!("http://{}", self.main["gateway"])
    }
}

/// What a run may change.
#[derive(Clone, Debug)]
pub struct Tweaks {
    /// Where traces and metrics go; empty: nowhere.
    pub otlp_endpoint: String,
    /// What is logged.
    pub log: String,
    /// Lease of a job in seconds.
    pub lease_seconds: u32,
    /// Idle Sprites stop after so many seconds.
    pub idle_seconds: u32,
    /// Sprites at a time.
    pub max_running_sprites: u32,
    /// Database logins a service.
    pub buckets: u16,
    /// Connections a login.
    pub bucket_connections: u32,
    /// Spare schemas.
    pub spares: u32,
    /// Service → another database of it, which is named `second`.
    pub second: BTreeMap<&'static str, String>,
    /// Requests a minute of a key, an organization, an address without a credential.
    pub rate_limits: [u64; 3],
    /// A session's secret is replaced after so many seconds.
    pub rotate_seconds: u32,
    /// Holds `ca.pem` and each service's `NAME.pem` and `NAME.key`; none: no TLS between services.
    pub certificates: Option<PathBuf>,
    /// A connection between services ends after so many seconds.
    pub connection_seconds: u32,
}

impl Default for Tweaks {
    fn default() -> Self {
        Self {
            otlp_endpoint: String::new(),
            log: "info".into(),
            lease_seconds: 30,
            idle_seconds: 60,
            max_running_sprites: 8,
            buckets: 4,
            bucket_connections: 4,
            spares: 8,
            second: BTreeMap::new(),
            rate_limits: [6_000, 30_000, 600],
            rotate_seconds: 3_600,
            certificates: None,
            connection_seconds: 300,
        }
    }
}

/// The name and number of the sandbox's App.
pub const APP_SLUG: &str = "nitejar-sandbox";
/// The App's id.
pub const APP_ID: u64 = 4242;
/// Its OAuth client.
pub const CLIENT_ID: &str = "Iv1.sandbox";

/// Service → its configuration.
pub fn configs(keys: &Keys, places: &Places, tweaks: &Tweaks) -> Result<BTreeMap<&'static str, Value>> {
    let uri = |name: &str| format!("http://{}", places.main[name]);
    let upstreams = json!({
        "tenancy": uri("tenancy"), "sprites": uri("sprites"), "billing": uri("billing"), "audit": uri("audit"),
        "connection_seconds": tweaks.connection_seconds,
    });
    let trusted: BTreeMap<&String, &String> =
        keys.tokens.iter().map(|(name, (_, public))| (name, public)).collect();
    let mut all = BTreeMap::new();
    for name in SERVICES {
        let signing = &keys.tokens.get(name).context("a service without a key")?.0;
        let mut config = json!({
            "listen": { "main": places.main[name], "probes": places.probes[name] },
            "telemetry": { "otlp_endpoint": tweaks.otlp_endpoint, "log": tweaks.log },
            "token": { "signing_key": signing, "trusted_keys": trusted },
        });
        if let Some(dir) = &tweaks.certificates {
            let file = |name: &str| dir.join(name);
            let (cert, key) = (file(&format!("{name}.pem")), file(&format!("{name}.key")));
            config["tls"] = json!({ "ca": file("ca.pem"), "cert": cert, "key": key });
        }
        if name != "audit" {
            config["upstreams"] = upstreams.clone();
        }
        if let Some(url) = places.databases.get(name) {
            config["database"] = json!({
                "url": url, "login_secret": keys.login_secret, "buckets": tweaks.buckets,
                "bucket_connections": tweaks.bucket_connections, "spares": tweaks.spares,
            });
            if let Some(url) = tweaks.second.get(name) {
                config["database"]["more"] = json!({ "second": url });
            }
        }
        match name {
            "tenancy" => {
                config["sandbox"] = true.into();
                config["public_url"] = places.gateway_url().into();
                config["mail"] = json!({ "smtp_url": format!("smtp://{}", places.smtp) });
                if let Some(dns) = places.dns {
                    config["dns"] = json!({ "resolver": dns });
                }
                config["session"] = json!({ "rotate_seconds": tweaks.rotate_seconds });
                config["master_key"] = keys.master.clone().into();
                config["former_master_keys"] = json!(keys.former_masters);
                config["secret_scanning_url"] = format!("http://{}", places.github).into();
                config["receipt_key"] = keys.receipt.clone().into();
                let hash = |key: &str| hex::encode(key::sha256(key));
                let (first, second) = (hash(&keys.operator), hash(&keys.second_operator));
                config["operators"] = json!({ "sandbox": first, "second": second });
            }
            "sprites" => {
                config["provider"] = json!({
                    "kind": "local", "root": places.sprites, "runner": places.runner, "gateway": places.gateway_url(),
                });
                config["runner_secret"] = keys.runner_secret.clone().into();
                config["lease_seconds"] = tweaks.lease_seconds.into();
                config["idle_seconds"] = tweaks.idle_seconds.into();
                config["max_running_sprites"] = tweaks.max_running_sprites.into();
                let github = format!("http://{}", places.github);
                config["github"] = json!({
                    "app_id": APP_ID, "app_slug": APP_SLUG, "client_id": CLIENT_ID, "client_secret": keys.client_secret,
                    "private_key": keys.app_private, "webhook_secret": keys.webhook_secret,
                    "api_url": github, "web_url": github, "redelivery_seconds": 2,
                });
            }
            "gateway" => {
                let [key, org, address] = tweaks.rate_limits;
                config["rate_limits"] = json!({ "key": key, "org": org, "address": address });
            }
            _ => {}
        }
        all.insert(name, config);
    }
    Ok(all)
}

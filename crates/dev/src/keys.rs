//! The keys of one sandbox: made once, kept in its data directory.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use nitejar_common::key::{self, KeyKind};
use nitejar_common::{rng, token};
use rsa::pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use serde::{Deserialize, Serialize};

/// All of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Keys {
    /// Service → (signing key, public key).
    pub tokens: BTreeMap<String, (String, String)>,
    /// The operator's key, `njo_…`.
    pub operator: String,
    /// Another operator's: some things take two.
    #[serde(default = "new_operator")]
    pub second_operator: String,
    /// Wraps data keys.
    pub master: String,
    /// Those that may have wrapped some.
    #[serde(default)]
    pub former_masters: Vec<String>,
    /// Signs receipts of purges.
    #[serde(default = "new_key")]
    pub receipt: String,
    /// Database logins derive from it.
    pub login_secret: String,
    /// Runner tokens derive from it.
    pub runner_secret: String,
    /// Signs webhooks.
    pub webhook_secret: String,
    /// The sandbox App's OAuth client secret.
    pub client_secret: String,
    /// The sandbox App's private key, PEM.
    pub app_private: String,
    /// Its public half, PEM.
    pub app_public: String,
}

/// Also for a sandbox of before there were receipts.
fn new_key() -> String {
    token::generate_key().0.expose().to_owned()
}

fn new_operator() -> String {
    key::generate(KeyKind::Operator).expose().to_owned()
}

/// The five services.
pub const SERVICES: [&str; 5] = ["tenancy", "sprites", "billing", "audit", "gateway"];

impl Keys {
    /// New ones.
    pub fn generate() -> Result<Self> {
        let tokens = SERVICES.iter().map(|name| {
            let (private, public) = token::generate_key();
            ((*name).to_owned(), (private.expose().to_owned(), public))
        });
        let secret = || hex::encode(rng::bytes::<32>());
        let app = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048)?;
        Ok(Self {
            tokens: tokens.collect(),
            operator: new_operator(),
            second_operator: new_operator(),
            master: token::generate_key().0.expose().to_owned(),
            former_masters: Vec::new(),
            receipt: new_key(),
            login_secret: secret(),
            runner_secret: secret(),
            webhook_secret: secret(),
            client_secret: secret(),
            app_private: app.to_pkcs8_pem(LineEnding::LF)?.to_string(),
            app_public: app.to_public_key().to_public_key_pem(LineEnding::LF)?,
        })
    }

    /// Those of a data directory; made when there are none.
    pub fn of(dir: &Path) -> Result<Self> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = dir.join("keys.json");
        if let Ok(text) = std::fs::read_to_string(&path) {
            return serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()));
        }
        let keys = Self::generate()?;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(serde_json::to_string_pretty(&keys)?.as_bytes())?;
        Ok(keys)
    }
}

//! A stack of a test's own: databases cloned from templates, all five services, a fake GitHub.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use nitejar_common::clock;
use nitejar_db::testing::{TestDatabase, database};
use nitejar_testkit::github::FakeGithub;
use nitejar_testkit::mailbox::Mailbox;
use serde_json::{Value, json};
use sqlx::Connection as _;
use tempfile::TempDir;

use crate::client::{Client, text};
use crate::demo::Target;
use crate::keys::Keys;
use crate::settings::{Places, Tweaks};
use crate::stack::{self, Stack};

/// Everything of one test.
#[derive(Debug)]
pub struct TestStack {
    /// Its keys.
    pub keys: Keys,
    /// Where everything is.
    pub places: Places,
    /// The fake GitHub.
    pub github: FakeGithub,
    /// Its mail.
    pub mailbox: Mailbox,
    /// Service → its database.
    pub databases: BTreeMap<&'static str, TestDatabase>,
    /// Holds Sprites and logs.
    pub dir: TempDir,
    stack: Option<Stack>,
}

/// What a test needs before it starts services in whatever way.
pub async fn ground() -> Result<(Keys, Places, BTreeMap<&'static str, TestDatabase>, TempDir)> {
    let mut databases = BTreeMap::new();
    for (name, schema) in [
        ("tenancy", nitejar_tenancy::SCHEMA),
        ("sprites", nitejar_sprites::SCHEMA),
        ("billing", nitejar_billing::SCHEMA),
        ("audit", nitejar_audit::SCHEMA),
    ] {
        databases.insert(name, database(schema).await?);
    }
    let dir = tempfile::tempdir()?;
    let urls = databases.iter().map(|(name, db)| (*name, db.handle.url.clone())).collect();
    let gateway = "127.0.0.1:0".parse()?;
    let mut places = Places::new(gateway, &dir.path().join("sprites"), &runner()?, urls)?;
    places.dns = Some(free_for_dns());
    let mut keys = Keys::generate()?;
    // The templates' logins were made with the tests' secret.
    keys.login_secret = nitejar_db::testing::config("").login_secret.expose().to_owned();
    Ok((keys, places, databases, dir))
}

/// Where nobody answers, unless a test starts a name server there: no test asks the world's. Below the ports that connections
/// are given, so that none takes it meanwhile.
fn free_for_dns() -> SocketAddr {
    loop {
        let port = 20_000 + u16::try_from(nitejar_common::rng::below(12_000)).unwrap_or_default();
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if std::net::UdpSocket::bind(addr).is_ok() && std::net::TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
}

/// The folder of the built binaries: tests run in a folder below it.
pub fn target_dir() -> Result<std::path::PathBuf> {
    let exe = std::env::current_exe()?;
    let dir = exe.ancestors().find(|d| d.join("nitejar-runner").exists());
    Ok(dir.context("nitejar-runner is not built: cargo build -p nitejar-runner")?.to_owned())
}

fn runner() -> Result<std::path::PathBuf> {
    Ok(target_dir()?.join("nitejar-runner"))
}

impl TestStack {
    /// With the settings of tests: short leases, small pools.
    pub async fn start() -> Result<Self> {
        Self::start_with(test_tweaks()).await
    }

    /// With these settings.
    pub async fn start_with(tweaks: Tweaks) -> Result<Self> {
        Self::start_changed(tweaks, |_| {}).await
    }

    /// With these settings, and keys that differ.
    pub async fn start_changed(tweaks: Tweaks, change: impl FnOnce(&mut Keys)) -> Result<Self> {
        Self::start_all(tweaks, BTreeMap::new(), change).await
    }

    /// With these settings, and databases of these services that are elsewhere.
    pub async fn start_on(tweaks: Tweaks, elsewhere: BTreeMap<&'static str, String>) -> Result<Self> {
        Self::start_all(tweaks, elsewhere, |_| {}).await
    }

    async fn start_all(
        tweaks: Tweaks,
        elsewhere: BTreeMap<&'static str, String>,
        change: impl FnOnce(&mut Keys),
    ) -> Result<Self> {
        let (mut keys, mut places, databases, dir) = ground().await?;
        places.databases.extend(elsewhere);
        change(&mut keys);
        let github = stack::start_github(&keys, &places, None).await?;
        let mailbox = Mailbox::start(places.smtp, places.mailbox).await?;
        let stack = Stack::start(&keys, places.clone(), &tweaks, clock::system()).await?;
        stack::wait_ready(&places).await?;
        Ok(Self { keys, places, github, mailbox, databases, dir, stack: Some(stack) })
    }

    /// For the demo's story.
    pub fn target(&self) -> Target {
        Target {
            gateway: self.places.gateway_url(),
            github: self.github.base_url(),
            operator_key: self.keys.operator.clone(),
        }
    }

    /// A service's database, with all rights: to look behind the product, or to let time pass.
    pub async fn database(&self, service: &str) -> Result<sqlx::PgConnection> {
        let database = self.databases.get(service).context("no such service")?;
        Ok(sqlx::PgConnection::connect(&database.handle.url).await?)
    }

    /// The operator's client.
    pub fn operator(&self) -> Result<Client> {
        Client::new(&self.places.gateway_url(), &self.keys.operator)
    }

    /// Another operator's.
    pub fn second_operator(&self) -> Result<Client> {
        Client::new(&self.places.gateway_url(), &self.keys.second_operator)
    }

    /// Starts one more gateway; answers its `http://…`.
    pub async fn another_gateway(&mut self) -> Result<String> {
        self.another_gateway_with(&test_tweaks()).await
    }

    /// The same, with these settings.
    pub async fn another_gateway_with(&mut self, tweaks: &Tweaks) -> Result<String> {
        let stack = self.stack.as_mut().context("stopped")?;
        Ok(stack.another_gateway(&self.keys, tweaks).await?.gateway_url())
    }

    /// Starts one more tenancy with these keys, and a gateway before it; answers its `http://…`.
    pub async fn another_tenancy(&mut self, keys: &Keys) -> Result<String> {
        let stack = self.stack.as_mut().context("stopped")?;
        Ok(stack.another_tenancy(keys, &test_tweaks()).await?.gateway_url())
    }

    /// The fake GitHub's client.
    pub fn github_client(&self) -> Result<Client> {
        Client::new(&self.github.base_url(), "")
    }

    /// Stops it, with its Sprites.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(stack) = self.stack.take() {
            stack.stop().await?;
        }
        crate::up::stop_sprites(&self.places).await
    }
}

/// Short leases, small pools, quiet logs.
pub fn test_tweaks() -> Tweaks {
    Tweaks {
        log: std::env::var("NITEJAR_TEST_LOG").unwrap_or_else(|_| "off".into()),
        lease_seconds: 5,
        idle_seconds: 600,
        buckets: 2,
        bucket_connections: 4,
        spares: 2,
        rate_limits: [1_000_000; 3],
        ..Tweaks::default()
    }
}

/// A person with a key.
pub async fn person(operator: &Client, name: &str) -> Result<(Client, String)> {
    let tag = hex::encode(nitejar_common::rng::bytes::<6>());
    let user = json!({ "email": format!("{name}-{tag}@example.com"), "name": name });
    let user = operator.post("/v1/operator/users", &user).await?;
    let path = format!("/v1/operator/users/{}/keys", text(&user, "id"));
    let key = operator.post(&path, &json!({ "name": "test" })).await?;
    Ok((operator.with_key(&text(&key, "secret")), text(&user, "id")))
}

/// An organization of a person's.
pub async fn organization(owner: &Client) -> Result<String> {
    let tag = hex::encode(nitejar_common::rng::bytes::<6>());
    let org = owner.post("/v1/orgs", &json!({ "slug": format!("org-{tag}"), "name": "Org" })).await?;
    Ok(text(&org, "id"))
}

/// Connects an organization to a new installation of the fake GitHub; answers its number.
pub async fn connect_github(
    owner: &Client,
    github: &Client,
    org: &str,
    repositories: &[String],
) -> Result<u64> {
    let started = owner.post(&format!("/v1/orgs/{org}/integrations:startGithubInstall"), &json!({})).await?;
    let url = text(&started, "url");
    let state = url.split("state=").nth(1).context("no state")?;
    let account = repositories[0].split('/').next().unwrap_or_default();
    let wish = json!({ "account": account, "repositories": repositories });
    let installed: Value = github.post("/_fake/installations", &wish).await?;
    let id = installed["installation_id"].as_u64().context("no installation")?;
    let back =
        format!("/v1/github/setup?installation_id={id}&code={}&state={state}", text(&installed, "code"));
    owner.get(&back).await?;
    Ok(id)
}

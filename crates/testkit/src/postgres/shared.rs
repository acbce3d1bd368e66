//! The server that all tests of a run share, and a database for each test.
//!
//! `cargo xtask test` starts one and says where in `NITEJAR_TEST_PG`. Without that, the first test process starts one,
//! and a small watchdog stops it when no test process has held the lock for a while: so `cargo nextest run` works alone.

use std::fs::{self, File};
use std::future::Future;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::cluster::{Cluster, Durability, try_lock};

/// The shared server.
#[derive(Clone, Debug)]
pub struct Shared {
    url: String,
}

/// A database of one test. Dropped with the value.
#[derive(Debug)]
pub struct TestDb {
    /// The owner's address.
    pub url: String,
    /// Its name.
    pub name: String,
    admin_url: String,
}

/// The shared server; starts it when there is none.
pub async fn shared() -> Result<Shared> {
    if let Ok(url) = std::env::var("NITEJAR_TEST_PG") {
        return Ok(Shared { url });
    }
    tokio::task::spawn_blocking(|| Ok(Shared { url: lazily_started()? })).await?
}

impl Shared {
    /// The owner's address of a database.
    pub fn url(&self, database: &str) -> Result<String> {
        let (base, _) = self.url.rsplit_once('/').context("the address names a database")?;
        Ok(format!("{base}/{database}"))
    }

    /// A clone of the template of that name, which `build` fills when it is missing.
    pub async fn clone_of<F, R>(&self, template: &str, build: F) -> Result<TestDb>
    where
        F: FnOnce(String) -> R,
        R: Future<Output = Result<()>>,
    {
        let mut admin = connect(&self.url).await?;
        // One builder a template; the others wait. The lock is on the server: test processes share nothing else.
        let key = i64::from_str_radix(&hex::encode(&sha256(template)[..7]), 16)?;
        sqlx::query("SELECT pg_advisory_lock($1)").bind(key).execute(&mut admin).await?;
        let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(template)
            .fetch_one(&mut admin)
            .await?;
        if !exists {
            // Roles are named after the database that they were made for, so it is built under its final name, and
            // dropped again when that fails.
            admin.execute(AssertSqlSafe(format!("CREATE DATABASE \"{template}\""))).await?;
            if let Err(error) = build(self.url(template)?).await {
                admin.execute(AssertSqlSafe(format!("DROP DATABASE \"{template}\" WITH (FORCE)"))).await?;
                return Err(error);
            }
        }
        sqlx::query("SELECT pg_advisory_unlock($1)").bind(key).execute(&mut admin).await?;
        let name = unique_name(template)?;
        // A connection that still looks at the template for a moment makes this fail: then again.
        let mut tries = 0;
        while let Err(error) =
            admin.execute(AssertSqlSafe(format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\""))).await
        {
            tries += 1;
            anyhow::ensure!(tries < 200, "cloning {template}: {error}");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        let _ = admin.close().await;
        Ok(TestDb { url: self.url(&name)?, name, admin_url: self.url.clone() })
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        // Drop can't await, and may run inside of a runtime: a thread with a runtime of its own does it.
        let (url, name) = (self.admin_url.clone(), self.name.clone());
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut admin = connect(&url).await?;
                admin
                    .execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)")))
                    .await?;
                anyhow::Ok(())
            })
        });
        if !matches!(dropping.join(), Ok(Ok(()))) {
            tracing::warn!(name = self.name, "a test database was left behind");
        }
    }
}

async fn connect(url: &str) -> Result<PgConnection> {
    Ok(PgConnection::connect_with(&PgConnectOptions::from_str(url)?).await?)
}

fn sha256(text: &str) -> Vec<u8> {
    use sha2::Digest as _;
    sha2::Sha256::digest(text.as_bytes()).to_vec()
}

fn unique_name(template: &str) -> Result<String> {
    use std::io::Read as _;
    let mut bytes = [0u8; 6];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let short: String = template.chars().take(20).collect();
    Ok(format!("{short}_{}", hex::encode(bytes)))
}

/// Starts the lazily shared server, or finds it. The lock that this process keeps tells the watchdog that it is needed.
fn lazily_started() -> Result<String> {
    let user = rustix::process::getuid().as_raw();
    let dir: PathBuf = std::env::temp_dir().join(format!("nitejar-test-pg-{user}"));
    fs::create_dir_all(&dir)?;
    let users = File::options().create(true).append(true).open(dir.join("users.lock"))?;
    users.lock_shared()?;
    // Kept open, and so locked, until this process ends.
    std::mem::forget(users);
    let starting = File::create(dir.join("starting.lock"))?;
    starting.lock()?;
    if let Ok(url) = fs::read_to_string(dir.join("url"))
        && std::net::TcpStream::connect(("127.0.0.1", port_of(&url)?)).is_ok()
    {
        return Ok(url);
    }
    let cluster_dir = dir.join("cluster");
    let _ = fs::remove_dir_all(&cluster_dir);
    let cluster = Cluster::start(&cluster_dir, Durability::Test)?;
    let url = cluster.url("postgres");
    fs::write(dir.join("url"), &url)?;
    // The lock is shared while tests run; the watchdog gets it alone once none did for ten seconds in a row.
    let script = format!(
        "free=0; while [ $free -lt 10 ]; do sleep 1; if flock -n -x '{lock}' true; then free=$((free+1)); else free=0; fi; \
         kill -0 {pid} 2>/dev/null || exit 0; done; rm -f '{url}'; kill -INT {pid}",
        lock = dir.join("users.lock").display(),
        pid = cluster.pid(),
        url = dir.join("url").display(),
    );
    use std::os::unix::process::CommandExt as _;
    Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("starting the watchdog")?;
    std::mem::forget(cluster);
    debug_assert!(try_lock(&File::open(dir.join("users.lock"))?).is_ok());
    Ok(url)
}

fn port_of(url: &str) -> Result<u16> {
    let rest = url.rsplit_once('@').context("an address with a user")?.1;
    Ok(rest.split(['/', ':']).nth(1).context("an address with a port")?.parse()?)
}

//! `up`: a private PostgreSQL, a fake GitHub and the five services, until Ctrl-C.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use anyhow::{Context as _, Result, bail};
use nitejar_common::clock;
use nitejar_runtime::config::TelemetryConfig;
use nitejar_runtime::telemetry;
use nitejar_testkit::mailbox::Mailbox;
use nitejar_testkit::postgres::{Cluster, Durability};
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use crate::keys::Keys;
use crate::settings::{Places, Tweaks};
use crate::split::Split;
use crate::stack::{self, Stack};

/// Flags of `up`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where the data live. They are kept between runs.
    #[arg(long, env = "NITEJAR_DATA_DIR", default_value = ".nitejar", value_name = "DIR")]
    pub data: PathBuf,
    /// Where the gateway listens.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Run the five services as processes of their own.
    #[arg(long)]
    pub split: bool,
    /// Send traces and metrics there (OTLP over gRPC), such as http://127.0.0.1:4317.
    #[arg(long, default_value = "", value_name = "URL")]
    pub otlp: String,
    /// What is logged, such as info or info,nitejar_sprites=debug.
    #[arg(long, default_value = "warn", value_name = "FILTER")]
    pub log: String,
    /// Forget all data first.
    #[arg(long)]
    pub fresh: bool,
}

/// The databases' names.
pub const DATABASES: [(&str, &str); 4] =
    [("tenancy", "nj_tenancy"), ("sprites", "nj_sprites"), ("billing", "nj_billing"), ("audit", "nj_audit")];

/// Makes the databases that are missing.
pub async fn create_databases(cluster: &Cluster) -> Result<BTreeMap<&'static str, String>> {
    let mut admin =
        PgConnection::connect_with(&PgConnectOptions::from_str(&cluster.url("postgres"))?).await?;
    let mut urls = BTreeMap::new();
    for (service, name) in DATABASES {
        let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(name)
            .fetch_one(&mut admin)
            .await?;
        if !there {
            admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
        }
        urls.insert(service, cluster.url(name));
    }
    Ok(urls)
}

/// The folder of the running binary: the others are beside it.
pub fn binaries() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    Ok(exe.parent().context("a binary without a folder")?.to_owned())
}

/// The data directory. Root's PostgreSQL runs as another user, who can't enter every folder.
fn data_dir(wish: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(wish)?;
    let dir = wish.canonicalize()?;
    let closed = |p: &Path| std::fs::metadata(p).is_ok_and(|m| m.permissions().mode() & 0o001 == 0);
    if rustix::process::geteuid().is_root() && dir.ancestors().any(closed) {
        let name = hex::encode(&nitejar_common::key::sha256(&dir.display().to_string())[..6]);
        let other = PathBuf::from(format!("/var/tmp/nitejar-{name}"));
        std::fs::create_dir_all(&other)?;
        return Ok(other);
    }
    Ok(dir)
}

/// Runs until a signal.
pub async fn run(args: Args) -> Result<()> {
    let data = data_dir(&args.data)?;
    if args.fresh {
        std::fs::remove_dir_all(&data)?;
        std::fs::create_dir_all(&data)?;
    }
    let lock = std::fs::File::create(data.join("lock"))?;
    if lock.try_lock().is_err() {
        bail!("another `up` uses {}. Stop it, or give another --data", data.display());
    }
    say(&format!("data in {}", data.display()));
    let keys = Keys::of(&data)?;
    say("starting PostgreSQL …");
    let pg_dir = data.join("postgres");
    let cluster = tokio::task::spawn_blocking(move || Cluster::start(&pg_dir, Durability::Durable)).await??;
    let databases = create_databases(&cluster).await?;
    let binaries = binaries()?;
    let runner = binaries.join("nitejar-runner");
    anyhow::ensure!(runner.exists(), "{} is missing: cargo build -p nitejar-runner", runner.display());
    let places = Places::new(args.listen, &data.join("sprites"), &runner, databases)?;
    let tweaks = Tweaks { otlp_endpoint: args.otlp.clone(), log: args.log.clone(), ..Tweaks::default() };
    let config = TelemetryConfig { otlp_endpoint: args.otlp, log: args.log, log_format: "auto".into() };
    let guard = telemetry::init("up", &config).map_err(|e| anyhow::anyhow!("telemetry: {e}"))?;
    let github = stack::start_github(&keys, &places, Some(data.join("github.json"))).await?;
    let mailbox = Mailbox::start(places.smtp, places.mailbox).await?;
    let signals = nitejar_runtime::lifecycle::Shutdown::new();
    signals.on_signals()?;
    say(if args.split {
        "starting five processes …"
    } else {
        "starting five services in this process …"
    });
    if args.split {
        let mut split = Split::prepare(&keys, places.clone(), &tweaks, &data, &binaries, false)?;
        split.spawn_all()?;
        let ready = stack::wait_ready(&places).await;
        if ready.is_ok() {
            announce(&data, &keys, &places, &github.base_url(), cluster.pid())?;
        }
        let ended = tokio::select! {
            () = signals.soft.cancelled() => None,
            name = split.first_end(), if ready.is_ok() => Some(name),
            () = std::future::ready(()), if ready.is_err() => None,
        };
        say("stopping …");
        split.stop().await;
        stop_sprites(&places).await?;
        ready?;
        anyhow::ensure!(ended.is_none(), "the service {} ended by itself", ended.unwrap_or_default());
    } else {
        let mut stack = Stack::start(&keys, places.clone(), &tweaks, clock::system()).await?;
        stack::wait_ready(&places).await?;
        announce(&data, &keys, &places, &github.base_url(), cluster.pid())?;
        let ended = tokio::select! {
            () = signals.soft.cancelled() => Ok(()),
            ended = stack.first_end() => ended,
        };
        say("stopping …");
        stack.stop().await?;
        stop_sprites(&places).await?;
        ended?;
    }
    drop((github, mailbox));
    drop(guard);
    tokio::task::spawn_blocking(move || drop(cluster)).await?;
    say("stopped; the data are kept");
    Ok(())
}

/// On a laptop nothing stays behind: in production Sprites outlive their service.
pub async fn stop_sprites(places: &Places) -> Result<()> {
    use nitejar_sprites::provider::{LocalProvider, SpriteProvider as _};
    let provider = LocalProvider::new(&places.sprites, &places.runner, &places.gateway_url())
        .map_err(|e| anyhow::anyhow!(e.log_text()))?;
    let running = provider.running().await.map_err(|e| anyhow::anyhow!(e.log_text()))?;
    for sprite in running {
        provider.stop(&sprite).await.map_err(|e| anyhow::anyhow!(e.log_text()))?;
    }
    Ok(())
}

/// Where `demo` finds a running `up`.
pub const RUNNING: &str = "running.json";

fn announce(data: &Path, keys: &Keys, places: &Places, github: &str, postgres: u32) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let gateway = places.gateway_url();
    let mailbox = format!("http://{}", places.mailbox);
    let running = json!({
        "gateway": gateway, "github": github, "mailbox": mailbox, "operator_key": keys.operator, "postgres": postgres,
    });
    // For the demo in the same folder, whatever directory the data really are in.
    for dir in [data.to_owned(), PathBuf::from(".nitejar")] {
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(RUNNING);
        let _ = std::fs::remove_file(&path);
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        serde_json::to_writer_pretty(file, &running)?;
        if dir.canonicalize().ok() == Path::new(".nitejar").canonicalize().ok() {
            break;
        }
    }
    say("");
    say("ready");
    say(&format!("  API           {gateway}"));
    say(&format!("  sign in       {gateway}/sign-in"));
    say(&format!("  its mail      {mailbox}"));
    say(&format!("  API reference {gateway}/docs"));
    say(&format!("  metrics       http://{}/metrics", places.probes["gateway"]));
    say(&format!("  fake GitHub   {github}"));
    say(&format!("  operator key  {}", keys.operator));
    say("");
    say("Next:");
    say(&format!("  open {gateway}/sign-in, give any address, and open the link from {mailbox}"));
    say("  in another terminal, cargo xtask demo tells the whole story");
    say("Ctrl-C stops everything and keeps the data.");
    Ok(())
}

/// To the person at the terminal, who may have gone.
fn say(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{text}");
}

//! What the benches of the gateway start: the product, each service a process; beside it a second gateway, whose agents come
//! from an upstream without a database; and the same without any check.
//!
//! Every process stands alone, so that CPU time can be told apart; load comes from this one. On a small machine they share
//! the cores: requests a second say little there, CPU time per request says much.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;

use anyhow::{Result, anyhow};
use nitejar_db::testing::TestDatabase;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::client::Client;
use crate::settings::Tweaks;
use crate::split::Split;
use crate::stack;
use crate::test_stack::{ground, organization, person, target_dir, test_tweaks};

/// Another process of this program, or nginx.
pub(super) struct Peer {
    addr: SocketAddr,
    child: Child,
}

impl Peer {
    pub(super) fn start(kind: &str, upstream: Option<SocketAddr>) -> Result<Self> {
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["peer", kind, "--listen", &addr.to_string()]).stdin(Stdio::null()).kill_on_drop(true);
        if let Some(upstream) = upstream {
            command.arg("--upstream").arg(format!("http://{upstream}"));
        }
        Ok(Self { addr, child: command.spawn()? })
    }

    /// nginx that answers `return 200`, one process, where it is installed.
    pub(super) fn nginx(dir: &std::path::Path) -> Result<Option<Self>> {
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let config = format!(
            "daemon off; master_process off; pid {0}/nginx.pid; error_log /dev/null; events {{ worker_connections 1024; }}\n\
             http {{ access_log off; server {{ listen {addr}; location / {{ return 200 '{{}}'; }} }} }}\n",
            dir.display()
        );
        let file = dir.join("nginx.conf");
        std::fs::write(&file, config)?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.kill_on_drop(true).spawn() {
            Ok(child) => Ok(Some(Self { addr, child })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(super) fn pid(&self) -> Result<i32> {
        let pid = self.child.id().ok_or_else(|| anyhow!("a peer ended"))?;
        Ok(i32::try_from(pid)?)
    }
}

/// All of it.
pub(super) struct Setup {
    pub(super) databases: BTreeMap<&'static str, TestDatabase>,
    pub(super) dir: TempDir,
    pub(super) split: Split,
    /// The second gateway.
    pub(super) second: Split,
    pub(super) upstream: Peer,
    /// The transcoder without any check, before the same upstream.
    pub(super) bare: Peer,
    /// An organization's owner, at the product's gateway.
    pub(super) owner: Client,
    /// The same at the second one.
    pub(super) far: Client,
    pub(super) org: String,
}

impl Setup {
    /// Limits are checked and never reached.
    pub(super) async fn start() -> Result<Self> {
        let (keys, places, databases, dir) = ground().await?;
        let binaries = target_dir()?;
        let tweaks = Tweaks { rate_limits: [1_000_000_000; 3], ..test_tweaks() };
        let mut split = Split::prepare(&keys, places.clone(), &tweaks, dir.path(), &binaries, true)?;
        split.spawn_all()?;
        let upstream = Peer::start("upstream", None)?;
        let bare = Peer::start("bare", Some(upstream.addr))?;
        let mut others = places.with_other(&["gateway"])?;
        others.main.insert("sprites", upstream.addr);
        let beside = dir.path().join("second");
        std::fs::create_dir_all(&beside)?;
        let mut second = Split::prepare(&keys, others.clone(), &tweaks, &beside, &binaries, true)?;
        second.spawn("gateway")?;
        stack::wait_ready(&places).await?;

        let operator = Client::new(&places.gateway_url(), &keys.operator)?;
        let (owner, _) = person(&operator, "owner").await?;
        let org = organization(&owner).await?;
        let plan = json!({ "plan": "enterprise" });
        operator.put(&format!("/v1/operator/orgs/{org}/subscription"), &plan).await?;
        let far = owner.at(&others.gateway_url());
        far.until_ok(&format!("/v1/orgs/{org}/agents/{AGENT}"), 20).await?;
        Ok(Self { databases, dir, split, second, upstream, bare, owner, far, org })
    }

    pub(super) async fn stop(self) {
        self.second.stop().await;
        self.split.stop().await;
    }
}

/// Which it is does not matter to an upstream that always says the same.
pub(super) const AGENT: &str = "agent_01jd8z4v6re1tt3p5s7z9w1y3n";

//! What a request through the gateway costs, beside the same without its checks, without the hop, and without anything.
//!
//! Every process stands alone, so that CPU time can be told apart; load comes from this one. On a small machine they share
//! the cores: requests a second say little there, CPU time per request says much.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nitejar_proto::sprites::v1::GetAgentRequest;
use nitejar_proto::sprites::v1::agents_client::AgentsClient;
use nitejar_runner::procs;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::client::{Client, text};
use crate::settings::Tweaks;
use crate::split::Split;
use crate::stack;
use crate::test_stack::{ground, organization, person, target_dir, test_tweaks};

/// Connections at a time.
pub(super) const CONNECTIONS: usize = 64;
const WARM: Duration = Duration::from_secs(1);
const SLICE: Duration = Duration::from_secs(4);

/// What was measured of one target.
pub(super) struct Measured {
    pub(super) per_second: f64,
    pub(super) p50_us: u32,
    pub(super) p99_us: u32,
    /// CPU time of the target's process per request.
    pub(super) cpu_us: f64,
}

pub(super) async fn run() -> Result<Value> {
    let (keys, places, _databases, dir) = ground().await?;
    let binaries = target_dir()?;
    // The limits are checked and never reached.
    let tweaks = Tweaks { rate_limits: [1_000_000_000; 3], ..test_tweaks() };
    let mut split = Split::prepare(&keys, places.clone(), &tweaks, dir.path(), &binaries, true)?;
    split.spawn_all()?;
    let upstream = Peer::start("upstream", None)?;
    let bare = Peer::start("bare", Some(upstream.addr))?;
    let alone = Peer::start("axum", None)?;
    // A second gateway, whose agents come from the upstream without a database.
    let mut trivial = places.with_another_gateway()?;
    trivial.main.insert("sprites", upstream.addr);
    let second = dir.path().join("second");
    std::fs::create_dir_all(&second)?;
    let (gateway, trivial_gateway) = {
        let mut other = Split::prepare(&keys, trivial.clone(), &tweaks, &second, &binaries, true)?;
        other.spawn("gateway")?;
        (split.pid("gateway")?, other)
    };
    stack::wait_ready(&places).await?;

    let operator = Client::new(&places.gateway_url(), &keys.operator)?;
    let (owner, _) = person(&operator, "owner").await?;
    let org = organization(&owner).await?;
    let plan = json!({ "plan": "enterprise" });
    operator.put(&format!("/v1/operator/orgs/{org}/subscription"), &plan).await?;
    let agents = format!("/v1/orgs/{org}/agents");
    let made = json!({ "handle": "worker", "config": { "command": "true" } });
    let agent = format!("{agents}/{}", text(&owner.post(&agents, &made).await?, "id"));
    let far = owner.at(&trivial.gateway_url());
    let listed = format!("{agents}?page_size=50");

    let mut result = json!({ "connections": CONNECTIONS });
    let mut note = |name: &str, m: Measured| {
        result[format!("{name}_req_per_s")] = json!(m.per_second.round());
        result[format!("{name}_p50_us")] = json!(m.p50_us);
        result[format!("{name}_p99_us")] = json!(m.p99_us);
        result[format!("{name}_cpu_us")] = json!((m.cpu_us * 10.0).round() / 10.0);
        m.cpu_us
    };
    let trivial_pid = trivial_gateway.pid("gateway")?;
    note("a_get_with_postgres", measure(&owner, &agent, gateway).await?);
    let b = note("b_get", measure(&far, &agent, trivial_pid).await?);
    let b_bare = note("b_bare_transcoder", measure(&far.at(&bare.url()), &agent, bare.pid()?).await?);
    let b_axum = note("b_axum_alone", measure(&far.at(&alone.url()), &agent, alone.pid()?).await?);
    let c = note("c_list_of_50", measure(&far, &listed, trivial_pid).await?);
    let c_bare = note("c_bare_transcoder", measure(&far.at(&bare.url()), &listed, bare.pid()?).await?);
    let c_axum = note("c_axum_alone", measure(&far.at(&alone.url()), &agents, alone.pid()?).await?);
    let direct = note("b_grpc_called_directly", grpc(&upstream).await?);
    if let Some(nginx) = Peer::nginx(dir.path())? {
        far.at(&nginx.url()).until_ok("/", 5).await?;
        note("nginx_return_200", measure(&far.at(&nginx.url()), "/", nginx.pid()?).await?);
    }
    result["b_gateway_to_grpc_directly_cpu"] = json!((b / direct * 100.0).round() / 100.0);
    let ratio = |a: f64, b: f64| json!((a / b * 100.0).round() / 100.0);
    result["b_gateway_to_bare_cpu"] = ratio(b, b_bare);
    result["b_gateway_to_axum_cpu"] = ratio(b, b_axum);
    result["c_gateway_to_bare_cpu"] = ratio(c, c_bare);
    result["c_gateway_to_axum_cpu"] = ratio(c, c_axum);
    result["b_req_per_s_per_gateway_core"] = json!((1_000_000.0 / b).round());
    trivial_gateway.stop().await;
    split.stop().await;
    Ok(result)
}

/// The upstream's own cost: its method called by gRPC, without any HTTP/JSON.
async fn grpc(upstream: &Peer) -> Result<Measured> {
    let channel = tonic::transport::Endpoint::from_shared(upstream.url())?.connect().await?;
    let slice = async |slice: Duration| -> Result<Vec<u32>> {
        let until = Instant::now() + slice;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            let mut client = AgentsClient::new(channel.clone());
            tasks.spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < until {
                    let began = Instant::now();
                    client.get_agent(GetAgentRequest::default()).await?;
                    times.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
                Ok::<_, anyhow::Error>(times)
            });
        }
        let mut all = Vec::new();
        while let Some(times) = tasks.join_next().await {
            all.extend(times??);
        }
        Ok(all)
    };
    slice(WARM).await?;
    let before = Before::of(upstream.pid()?)?;
    before.after(slice(SLICE).await?)
}

/// A process before a load.
struct Before {
    pid: i32,
    cpu: u64,
    began: Instant,
}

impl Before {
    fn cpu(pid: i32) -> Result<u64> {
        procs::one(pid).map(|p| p.cpu).context("the process is gone")
    }

    fn of(pid: i32) -> Result<Self> {
        Ok(Self { pid, cpu: Self::cpu(pid)?, began: Instant::now() })
    }

    /// What the load cost, with the times of its requests.
    fn after(self, mut times: Vec<u32>) -> Result<Measured> {
        let (spent, elapsed) = (Self::cpu(self.pid)? - self.cpu, self.began.elapsed());
        times.sort_unstable();
        let count = f64::from(u32::try_from(times.len())?);
        let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "some thousands of ticks")]
        let cpu_us = spent as f64 * 1_000_000.0 / procs::TICKS as f64 / count;
        Ok(Measured { per_second: count / elapsed.as_secs_f64(), p50_us: at(50), p99_us: at(99), cpu_us })
    }
}

/// Load for a while; the middle is measured.
pub(super) async fn measure(client: &Client, path: &str, pid: i32) -> Result<Measured> {
    let one = client.call(Method::GET, path, None).await?;
    anyhow::ensure!(one.status == 200, "{path} answers {}: {}", one.status, one.body);
    load(client, path, WARM).await?;
    let before = Before::of(pid)?;
    before.after(load(client, path, SLICE).await?)
}

/// The times of all requests, in microseconds.
async fn load(client: &Client, path: &str, slice: Duration) -> Result<Vec<u32>> {
    let until = Instant::now() + slice;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (client, path) = (client.clone(), path.to_owned());
        tasks.spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < until {
                let began = Instant::now();
                let answer = client.request(Method::GET, &path).send().await?;
                anyhow::ensure!(answer.status() == 200, "{path} answers {}", answer.status());
                answer.bytes().await?;
                times.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            Ok(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = tasks.join_next().await {
        all.extend(times??);
    }
    Ok(all)
}

/// Another process of this program.
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
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
    fn nginx(dir: &std::path::Path) -> Result<Option<Self>> {
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

//! Load in turns: each target has a slice of every round, so that an hour in which the machine is slow is slow for all.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nitejar_proto::sprites::v1::GetAgentRequest;
use nitejar_proto::sprites::v1::agents_client::AgentsClient;
use nitejar_runner::procs;
use reqwest::Method;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use crate::client::Client;

/// Connections at a time.
pub(super) const CONNECTIONS: usize = 64;
const ROUNDS: u32 = 8;
/// Of load, before anything is measured, and in each round.
const SLICE: Duration = Duration::from_secs(1);

/// What is measured, and the process that answers.
#[derive(Clone)]
pub(super) struct Target {
    name: &'static str,
    pid: i32,
    calls: Calls,
}

#[derive(Clone)]
enum Calls {
    /// GET of a path.
    Http(Client, String),
    /// GetAgent, by gRPC, each caller with a connection of its own.
    Grpc(Vec<Channel>),
}

/// What was measured of one target.
pub(super) struct Measured {
    pub(super) per_second: f64,
    pub(super) p50_us: u32,
    pub(super) p99_us: u32,
    /// CPU time of the target's process per request.
    pub(super) cpu_us: f64,
}

#[derive(Default)]
struct Sum {
    ticks: u64,
    elapsed: Duration,
    times: Vec<u32>,
}

impl Target {
    pub(super) fn http(name: &'static str, client: &Client, path: &str, pid: i32) -> Self {
        Self { name, pid, calls: Calls::Http(client.clone(), path.to_owned()) }
    }

    pub(super) async fn grpc(name: &'static str, url: String, pid: i32) -> Result<Self> {
        let mut channels = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            channels.push(Endpoint::from_shared(url.clone())?.connect().await?);
        }
        Ok(Self { name, pid, calls: Calls::Grpc(channels) })
    }

    async fn once(&self, caller: usize) -> Result<()> {
        match &self.calls {
            Calls::Http(client, path) => {
                let answer = client.request(Method::GET, path).send().await?;
                let status = answer.status();
                let body = answer.bytes().await?;
                ensure!(status == 200, "{path} answers {status}: {}", String::from_utf8_lossy(&body));
            }
            Calls::Grpc(channels) => {
                AgentsClient::new(channels[caller].clone()).get_agent(GetAgentRequest::default()).await?;
            }
        }
        Ok(())
    }

    /// The times of all calls in a slice, in microseconds.
    async fn load(&self) -> Result<Vec<u32>> {
        let until = Instant::now() + SLICE;
        let mut tasks = JoinSet::new();
        for caller in 0..CONNECTIONS {
            let target = self.clone();
            tasks.spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < until {
                    let began = Instant::now();
                    target.once(caller).await?;
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
    }

    fn ticks(&self) -> Result<u64> {
        procs::one(self.pid).map(|p| p.cpu).with_context(|| format!("{} is gone", self.name))
    }

    async fn measure(&self, sum: &mut Sum) -> Result<()> {
        let (before, began) = (self.ticks()?, Instant::now());
        sum.times.extend(self.load().await?);
        sum.ticks += self.ticks()? - before;
        sum.elapsed += began.elapsed();
        Ok(())
    }
}

impl Sum {
    fn measured(mut self) -> Result<Measured> {
        self.times.sort_unstable();
        let count = f64::from(u32::try_from(self.times.len())?);
        let at = |share: usize| self.times.get(self.times.len() * share / 100).copied().unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "some thousands of ticks")]
        let cpu_us = self.ticks as f64 * 1_000_000.0 / procs::TICKS as f64 / count;
        let per_second = count / self.elapsed.as_secs_f64();
        Ok(Measured { per_second, p50_us: at(50), p99_us: at(99), cpu_us })
    }
}

/// Measures all of them, each by its name.
pub(super) async fn in_turns(targets: &[Target]) -> Result<BTreeMap<&'static str, Measured>> {
    let mut sums: Vec<Sum> = targets.iter().map(|_| Sum::default()).collect();
    for target in targets {
        target.load().await.with_context(|| format!("{}, before it was measured", target.name))?;
    }
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        // There and back: what a process does late is not always paid by the same neighbour.
        for turn in 0..targets.len() {
            let at = if round % 2 == 0 { targets.len() - 1 - turn } else { turn };
            targets[at].measure(&mut sums[at]).await?;
        }
    }
    targets.iter().zip(sums).map(|(target, sum)| Ok((target.name, sum.measured()?))).collect()
}

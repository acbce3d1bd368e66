//! All five services in one process, over real loopback gRPC, beside a fake GitHub.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use nitejar_common::clock::SharedClock;
use nitejar_runtime::config::{Problems, Validate};
use nitejar_runtime::lifecycle::Shutdown;
use nitejar_runtime::service::Bound;
use nitejar_testkit::github::{FakeGithub, FakeGithubConfig};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::keys::Keys;
use crate::settings::{self, Places, Tweaks};

/// Running services.
#[derive(Debug)]
pub struct Stack {
    /// Where everything is.
    pub places: Places,
    front: Part,
    behind: Part,
}

/// Services that start and stop together.
#[derive(Debug, Default)]
struct Part {
    shutdown: Shutdown,
    services: JoinSet<Result<()>>,
}

impl Part {
    fn run(&mut self, bound: nitejar_common::Result<Bound>) -> Result<()> {
        let bound = bound.map_err(|e| anyhow!(e.log_text()))?;
        let shutdown = self.shutdown.clone();
        self.services.spawn(async move { bound.run(shutdown).await.map_err(|e| anyhow!(e.log_text())) });
        Ok(())
    }

    /// Drains and waits.
    async fn stop(&mut self) -> Result<()> {
        self.shutdown.begin();
        let mut first = Ok(());
        while let Some(ended) = self.services.join_next().await {
            first = first.and(ended.map_err(anyhow::Error::from).and_then(|ended| ended));
        }
        first
    }
}

/// The fake GitHub of a sandbox. It remembers what `file` holds, as our databases remember: an installation that is bound
/// to an organization must not be given a second time.
pub async fn start_github(keys: &Keys, places: &Places, file: Option<PathBuf>) -> Result<FakeGithub> {
    let gateway = places.gateway_url();
    FakeGithub::start(FakeGithubConfig {
        addr: places.github,
        app_id: settings::APP_ID,
        app_slug: settings::APP_SLUG.into(),
        client_id: settings::CLIENT_ID.into(),
        client_secret: keys.client_secret.clone(),
        public_key: keys.app_public.clone(),
        webhook_secret: keys.webhook_secret.clone(),
        webhook_url: format!("{gateway}/webhooks/github"),
        setup_url: format!("{gateway}/v1/github/setup"),
        file,
    })
    .await
}

fn typed<C: DeserializeOwned + Validate>(name: &str, configs: &BTreeMap<&'static str, Value>) -> Result<C> {
    let value = configs.get(name).cloned().context("a service without a configuration")?;
    let config: C = serde_json::from_value(value).with_context(|| format!("the configuration of {name}"))?;
    let mut problems = Problems::default();
    config.validate(&mut problems);
    anyhow::ensure!(problems.is_empty(), "the configuration of {name}: {problems}");
    Ok(config)
}

impl Stack {
    /// Starts all five.
    pub async fn start(keys: &Keys, places: Places, tweaks: &Tweaks, clock: SharedClock) -> Result<Self> {
        let configs = settings::configs(keys, &places, tweaks)?;
        let mut behind = Part::default();
        behind.run(nitejar_audit::bind(typed("audit", &configs)?, clock.clone()).await)?;
        behind.run(nitejar_billing::bind(typed("billing", &configs)?, clock.clone()).await)?;
        behind.run(nitejar_tenancy::bind(typed("tenancy", &configs)?, clock.clone()).await)?;
        let mut front = Part::default();
        front.run(nitejar_sprites::bind(typed("sprites", &configs)?, clock.clone()).await)?;
        front.run(nitejar_gateway::bind(typed("gateway", &configs)?, clock).await)?;
        Ok(Self { places, front, behind })
    }

    /// Starts one more gateway; answers where it is.
    pub async fn another_gateway(&mut self, keys: &Keys, tweaks: &Tweaks) -> Result<Places> {
        let places = self.places.with_other(&["gateway"])?;
        let configs = settings::configs(keys, &places, tweaks)?;
        let clock = nitejar_common::clock::system();
        self.front.run(nitejar_gateway::bind(typed("gateway", &configs)?, clock).await)?;
        wait_ready(&places).await?;
        Ok(places)
    }

    /// Starts one more tenancy, with these keys, and a gateway that asks it; answers where they are.
    pub async fn another_tenancy(&mut self, keys: &Keys, tweaks: &Tweaks) -> Result<Places> {
        let places = self.places.with_other(&["gateway", "tenancy"])?;
        let configs = settings::configs(keys, &places, tweaks)?;
        let clock = nitejar_common::clock::system();
        self.behind.run(nitejar_tenancy::bind(typed("tenancy", &configs)?, clock.clone()).await)?;
        self.front.run(nitejar_gateway::bind(typed("gateway", &configs)?, clock).await)?;
        wait_ready(&places).await?;
        Ok(places)
    }

    /// Drains and waits. Gateways settle with the others what they leased of them, and sprites ends the long polls that
    /// would hold gateways up: these go first.
    pub async fn stop(mut self) -> Result<()> {
        let front = self.front.stop().await;
        self.behind.stop().await.and(front)
    }

    /// Waits until the first service ends.
    pub async fn first_end(&mut self) -> Result<()> {
        let ended = tokio::select! {
            Some(ended) = self.front.services.join_next() => ended,
            Some(ended) = self.behind.services.join_next() => ended,
            else => return Ok(()),
        };
        ended?
    }
}

/// Waits until a gateway answers that everything is ready.
pub async fn wait_ready(places: &Places) -> Result<()> {
    let http = nitejar_runtime::http::client(std::time::Duration::from_secs(5))?;
    let url = format!("http://{}/readyz", places.probes["gateway"]);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let answer = http.get(&url).send().await;
        if answer.as_ref().is_ok_and(|r| r.status().is_success()) {
            return Ok(());
        }
        if std::time::Instant::now() > until {
            let text = match answer {
                Ok(response) => response.text().await.unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            anyhow::bail!("the stack is not ready after 60 s: {text}");
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

//! The product for one test, each service a process of its own: what is killed, measured or out of files is one of them.

use std::collections::BTreeMap;

use anyhow::Result;
use nitejar_db::testing::TestDatabase;
use nitejar_testkit::github::FakeGithub;
use tempfile::TempDir;

use crate::client::Client;
use crate::settings::{Places, Tweaks};
use crate::split::Split;
use crate::stack;
use crate::test_stack::{ground, target_dir};

/// Everything of one test.
#[derive(Debug)]
pub struct TestProcesses {
    /// Where everything is.
    pub places: Places,
    /// Service → database.
    pub databases: BTreeMap<&'static str, TestDatabase>,
    /// The services.
    pub split: Split,
    /// GitHub.
    pub github: FakeGithub,
    /// The operator's client.
    pub operator: Client,
    /// Logs, sprites and sockets are below it.
    pub dir: TempDir,
}

impl TestProcesses {
    /// Starts all of it; answers when it is ready.
    pub async fn start(tweaks: &Tweaks) -> Result<Self> {
        let (keys, places, databases, dir) = ground().await?;
        let github = stack::start_github(&keys, &places, None).await?;
        let mut split = Split::prepare(&keys, places.clone(), tweaks, dir.path(), &target_dir()?, true)?;
        split.spawn_all()?;
        stack::wait_ready(&places).await?;
        let operator = Client::new(&places.gateway_url(), &keys.operator)?;
        Ok(Self { places, databases, split, github, operator, dir })
    }

    /// Stops all of it.
    pub async fn stop(self) {
        self.split.stop().await;
    }
}

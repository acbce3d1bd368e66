//! Memory of five idle services in one process.

use anyhow::Result;
use serde_json::{Value, json};

use crate::test_stack::TestStack;

pub(super) async fn run() -> Result<Value> {
    let stack = TestStack::start().await?;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let me = i32::try_from(std::process::id())?;
    let memory = nitejar_runner::procs::one(me).map_or(0, |p| p.memory) >> 20;
    stack.stop().await?;
    Ok(json!({ "five_services_idle_mib": memory, "goal_mib": 150 }))
}

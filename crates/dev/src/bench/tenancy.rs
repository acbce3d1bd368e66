//! TenantTx against an unbound transaction.

use anyhow::{Result, bail};
use serde_json::Value;

pub(super) async fn run() -> Result<Value> {
    bail!("not measured yet")
}

//! Checking the receipt of a deletion.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use reqwest::Method;
use serde_json::Value;

use crate::api::Api;
use crate::failure::{Failure, Result};
use crate::output::Shape;

/// Whether the receipt in a file is one of ours, and unchanged.
pub(super) async fn verify(url: &str, file: &Path, keys: Option<&Path>, shape: Shape) -> Result<()> {
    let receipt = read(file)?;
    let keys = match keys {
        Some(path) => read(path)?,
        None => Api::new(url, "")?.call(Method::GET, "/v1/receipt-keys", None).await?,
    };
    let said = check(&receipt, &keys).ok_or_else(|| {
        Failure::new("This is NOT a valid receipt: it was changed, or none of these keys signed it.")
    })?;
    let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
    shape.done(
        &format!("Valid. {} ({}) was deleted on {}.", text("slug"), text("org_id"), text("purged_at")),
        &said,
    )
}

fn read(path: &Path) -> Result<Value> {
    let name = path.display();
    let text = match path.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(path),
    };
    let text = text.map_err(|e| Failure::new(format!("{name}: {e}")))?;
    serde_json::from_str(&text).map_err(|e| Failure::new(format!("{name} is not JSON: {e}")))
}

/// What a receipt says; none: it is not valid.
fn check(receipt: &Value, keys: &Value) -> Option<Value> {
    let decode = |v: &Value| STANDARD.decode(v.as_str()?).ok();
    let key = keys["keys"].as_array()?.iter().find(|k| k["id"] == receipt["key_id"])?;
    let key = VerifyingKey::from_bytes(&decode(&key["public_key"])?.try_into().ok()?).ok()?;
    let signature = Signature::from_bytes(&decode(&receipt["signature"])?.try_into().ok()?);
    let payload = receipt["payload"].as_str()?;
    key.verify_strict(payload.as_bytes(), &signature).ok()?;
    let said: Value = serde_json::from_str(payload).ok()?;
    (said["type"] == "nitejar.purge_receipt.v1").then_some(said)
}

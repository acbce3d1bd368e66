//! Webhooks: raw bytes to the service that knows how they are signed.

pub(crate) mod github;
pub(crate) mod secret_scanning;

use http::HeaderMap;

/// A header as text; empty when it is not there, too long, or none.
fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|v| v.to_str().ok()).filter(|v| v.len() <= 200).unwrap_or_default().to_owned()
}

//! `Idempotency-Key`: what names a request that may come again. The service keeps the answer, with the change.

use http::HeaderMap;
use http::header::HeaderName;
use nitejar_common::error::{Error, Result};
use nitejar_common::idempotency::Idempotency;
use nitejar_proto::policy::Scope;
use sha2::{Digest as _, Sha256};

use crate::authn;
use crate::transcode::json::Node;
use crate::transcode::routes::Route;

/// The request's header.
pub(crate) const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that the answer is an earlier one.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest key.
const LONGEST: usize = 255;

/// What a request's key names; none without a key, or where it has no meaning: only POST acts anew each time; without a
/// credential nobody could be told from anybody; and the Sprite protocol repeats by its own numbers. `lasting` stands for a
/// credential that is replaced from time to time.
pub(crate) fn of_request(
    route: &Route,
    headers: &HeaderMap,
    path_and_query: &str,
    body: Option<&Node>,
    lasting: Option<&str>,
) -> Result<Option<Idempotency>> {
    let mut values = headers.get_all(KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let verb = route.policy.http.as_ref().map_or("", |h| h.verb);
    if verb != "POST" || matches!(route.policy.scope, Scope::Public | Scope::Runner) {
        return Ok(None);
    }
    let visible = value.as_bytes().iter().all(|byte| (b'!'..=b'~').contains(byte));
    let key = value.to_str().ok().filter(|_| visible).unwrap_or_default();
    if key.is_empty() || key.len() > LONGEST || values.next().is_some() {
        return Err(Error::invalid(
            "/Idempotency-Key",
            "must be one key of 1 to 255 visible ASCII characters",
        ));
    }
    let Some((_, credential)) = authn::presented(headers)? else { return Ok(None) };
    let mut hash = Sha256::new();
    hash.update((path_and_query.len() as u64).to_be_bytes());
    hash.update(path_and_query);
    if let Some(body) = body {
        body.digest(&mut hash);
    }
    // A key counts for one operation: it would be no error that only one of our services could see.
    let key = format!("{}|{key}", route.policy.path);
    let owner = lasting.unwrap_or(credential);
    Ok(Some(Idempotency::new(owner, &key, hash.finalize().into())))
}

//! A path may name an organization by a slug, as it is or was: its members are sent on to the same path with its id. To everybody
//! else it looks like an organization that there is not.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, Uri, header};
use nitejar_common::error::Result;
use nitejar_common::id::OrgId;

use crate::problem;

/// Whether it could be a slug. An id never is: it has an underscore.
pub(crate) fn looks_like(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (3..=40).contains(&text.len()) && text.bytes().all(plain)
}

/// `307`: the same method and body, there.
pub(crate) fn redirect(uri: &Uri, org: &OrgId, request_id: &str) -> Result<Response> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(header::LOCATION, HeaderValue::try_from(location(uri, org))?);
    Ok(problem::finish(response, request_id))
}

/// Relative, so that it is good behind whatever name the gateway has.
fn location(uri: &Uri, org: &OrgId) -> String {
    let after = uri.path().strip_prefix("/v1/orgs/").unwrap_or_default();
    let rest = after.find(['/', ':']).map_or("", |at| &after[at..]);
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    format!("/v1/orgs/{org}{rest}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_slug_is_replaced() {
        let org: OrgId = "org_01h2xcejqtf2nbrexx3vqjhp41".parse().unwrap();
        for (asked, rest) in [
            ("/v1/orgs/acme", ""),
            ("/v1/orgs/acme:leave", ":leave"),
            ("/v1/orgs/%61cme/jobs?page_size=1&a=/v1/orgs/acme", "/jobs?page_size=1&a=/v1/orgs/acme"),
            ("/v1/orgs/acme/secrets/A%2FB", "/secrets/A%2FB"),
            ("/v1/orgs/acme/jobs/acme:cancel", "/jobs/acme:cancel"),
        ] {
            assert_eq!(location(&asked.parse().unwrap(), &org), format!("/v1/orgs/{org}{rest}"));
        }
        for good in ["acme", "a-1"] {
            assert!(looks_like(good), "{good}");
        }
        for other in ["ab", "Acme", "org_01h2xcejqtf2nbrexx3vqjhp41", "a b", "ac/me", "\u{e4}cme"] {
            assert!(!looks_like(other), "{other}");
        }
    }
}

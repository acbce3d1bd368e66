//! Cookies in and out, and the proof that a browser sent a request from our own pages.

use http::header::{COOKIE, HOST, HeaderName, HeaderValue, ORIGIN};
use http::{HeaderMap, Method};
use nitejar_common::error::{Code, Error, Result};

/// Holds a session's secret.
pub(crate) const SESSION: &str = "nj_session";
/// For how long the browser keeps it: no session lives longer.
pub(crate) const SESSION_SECONDS: u32 = 2_592_000;
/// Makes the browser refuse the cookie without Secure, for another path, or from another host of the domain.
const PREFIX: &str = "__Host-";
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A cookie's value.
pub(crate) fn get<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(key, value)| (key.strip_prefix(PREFIX) == Some(name)).then_some(value))
}

/// Sets a cookie that no script can read; an empty text makes the browser forget it.
pub(crate) fn set(name: &str, value: &str, seconds: u32) -> Result<HeaderValue> {
    let seconds = if value.is_empty() { 0 } else { seconds };
    let text = format!("{PREFIX}{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; Secure; SameSite=Lax");
    let mut header = HeaderValue::from_str(&text)?;
    header.set_sensitive(true);
    Ok(header)
}

/// Refuses what a browser sends from another site's page. Every browser of the last years says where a request comes from;
/// what says nothing is no browser, and has no cookies but its own.
pub(crate) fn check_site(method: &Method, headers: &HeaderMap) -> Result<()> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let text = |name: &HeaderName| headers.get(name).map(|v| v.to_str().unwrap_or("?"));
    let own = match (text(&FETCH_SITE), text(&ORIGIN)) {
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => {
            let host = origin.split_once("://").map(|(_, host)| host);
            host.is_some() && host == text(&HOST)
        }
        (None, None) => true,
    };
    if own {
        return Ok(());
    }
    Err(Error::new(Code::CrossSite, "A page of another site sent this. Use an API key instead of a session."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_our_own_cookie_is_read() {
        let h = headers(&[(&COOKIE, "a=b; nj_session=evil"), (&COOKIE, "__Host-nj_session=good ; c=d")]);
        assert_eq!(get(&h, SESSION), Some("good"));
        assert_eq!(get(&h, "nj_browser"), None);
        assert!(set(SESSION, "a\r\nb", 1).is_err());
        assert!(set(SESSION, "", 99).unwrap().to_str().unwrap().contains("Max-Age=0"));
    }

    #[test]
    fn other_sites_are_refused() {
        let may = |pairs: &[(&HeaderName, &str)]| check_site(&Method::POST, &headers(pairs)).is_ok();
        let host = (&HOST, "app.example.com:8080");
        assert!(may(&[host, (&FETCH_SITE, "same-origin"), (&ORIGIN, "http://app.example.com:8080")]));
        assert!(may(&[host, (&ORIGIN, "http://app.example.com:8080")]));
        assert!(may(&[host]));
        for (name, value) in [
            (&FETCH_SITE, "cross-site"),
            (&FETCH_SITE, "same-site"),
            (&FETCH_SITE, "new-word"),
            (&ORIGIN, "http://evil.example"),
            (&ORIGIN, "http://app.example.com"),
            (&ORIGIN, "null"),
        ] {
            assert!(!may(&[host, (name, value)]), "{value}");
        }
        assert!(check_site(&Method::GET, &headers(&[(&FETCH_SITE, "cross-site")])).is_ok());
    }
}

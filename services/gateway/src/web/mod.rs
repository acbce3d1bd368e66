//! The pages that people see: signing in, their account, the API reference. Plain files that use the public API, and
//! nothing from anywhere else.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use nitejar_common::id::RequestId;

use crate::problem;
use crate::service::Gateway;

/// Scripts and styles are files of ours; nothing else is loaded, framed, or talked to.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Address, type, text.
const FILES: &[(&str, &str, &str)] = &[
    ("/sign-in", HTML, include_str!("sign-in.html")),
    ("/sign-in/finish", HTML, include_str!("finish.html")),
    ("/join", HTML, include_str!("join.html")),
    ("/account", HTML, include_str!("account.html")),
    ("/docs", HTML, include_str!("docs.html")),
    ("/assets/api.js", SCRIPT, include_str!("api.js")),
    ("/assets/sign-in.js", SCRIPT, include_str!("sign-in.js")),
    ("/assets/finish.js", SCRIPT, include_str!("finish.js")),
    ("/assets/join.js", SCRIPT, include_str!("join.js")),
    ("/assets/account.js", SCRIPT, include_str!("account.js")),
    ("/assets/docs.js", SCRIPT, include_str!("docs.js")),
    ("/assets/style.css", STYLE, include_str!("style.css")),
];

/// Adds the pages.
pub(crate) fn routes(mut router: Router<Arc<Gateway>>) -> Router<Arc<Gateway>> {
    for (path, kind, text) in FILES {
        router = router.route(
            path,
            get(move |State(gateway): State<Arc<Gateway>>| async move { page(&gateway, kind, text) }),
        );
    }
    router.route("/", get(home))
}

fn page(gateway: &Gateway, kind: &'static str, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    // With each release they may change together.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    problem::finish(response, RequestId::new(&*gateway.clock).as_str())
}

async fn home(State(gateway): State<Arc<Gateway>>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/account"));
    problem::finish(response, RequestId::new(&*gateway.clock).as_str())
}

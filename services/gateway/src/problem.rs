//! Refusals as `application/problem+json`.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use nitejar_common::error::{Code, Error};

/// An answer is data: whatever it says, a browser must not run it, frame it, guess its type or tell others of its address.
const SECURITY: [(header::HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000; includeSubDomains"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-site"),
];

/// The answer that an error gives.
pub(crate) fn response(error: &Error, request_id: &str) -> Response {
    if error.code() == Code::Internal {
        tracing::error!(error = %error.log_text(), request_id, "internal error");
    }
    let status = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::new(Body::from(error.problem(request_id).to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(after) = error.retry_after_value() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    finish(response, request_id)
}

/// The path is right, the verb is not.
pub(crate) fn wrong_method(verbs: &[&str], request_id: &str) -> Response {
    let verbs = verbs.join(", ");
    let error = Error::new(Code::MethodNotAllowed, format!("This path takes {verbs}."));
    let mut response = response(&error, request_id);
    if let Ok(allow) = HeaderValue::from_str(&verbs) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// The headers that every answer has.
pub(crate) fn finish(mut response: Response, request_id: &str) -> Response {
    let headers = response.headers_mut();
    // Once, for these and for what others still add.
    headers.reserve(SECURITY.len() + 8);
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert("x-request-id", id);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    for (name, value) in SECURITY {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

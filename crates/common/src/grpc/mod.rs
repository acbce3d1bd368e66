//! Both ends of a call between our services: the token and trace context that [`client`] sends are what [`server`]
//! checks before a handler runs.

pub mod client;
pub mod server;
pub mod tls;
pub mod trace;

/// Carries the internal token.
pub(crate) const TOKEN_HEADER: &str = "authorization";
/// Carries the request's id. It is for logs and the audit trail and grants nothing, so it needs no signature.
pub(crate) const REQUEST_ID_HEADER: &str = "x-nitejar-request-id";

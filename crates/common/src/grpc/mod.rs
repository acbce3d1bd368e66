//! Both ends of a call between our services: the token and trace context that [`client`] sends are what [`server`]
//! checks before a handler runs.

pub mod client;
pub mod server;
pub mod trace;

/// Carries the internal token.
pub(crate) const TOKEN_HEADER: &str = "authorization";

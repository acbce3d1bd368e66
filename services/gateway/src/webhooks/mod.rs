//! Webhooks: raw bytes to the service that knows how they are signed.

pub(crate) mod github;

//! What tests and `cargo xtask up` stand on: a private PostgreSQL and a stateful fake GitHub.

pub mod github;
pub mod postgres;

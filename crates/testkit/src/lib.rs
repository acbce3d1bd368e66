//! What tests and `cargo xtask up` stand on: a private PostgreSQL, a stateful fake GitHub, a mailbox.

pub mod github;
pub mod mailbox;
pub mod postgres;

//! The whole stack: real Postgres, real HTTP and gRPC, real processes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod archives;
mod bad_input;
mod browser;
mod bursts;
mod chaos;
mod cli;
mod clients;
mod contract;
mod coverage;
mod credentials;
mod custom_roles;
mod deploy;
mod dns;
mod domains;
mod edge;
mod endpoints;
mod examples;
mod exports;
mod idempotency;
mod isolation;
mod jobs;
mod keys;
mod kills;
mod last_owner;
mod leaks;
mod limits;
mod lives;
mod members;
mod moves;
mod openapi;
mod people;
mod quota;
mod roles;
mod schemathesis;
mod secrets;
mod sessions;
mod story;
mod support;
mod tls;
mod trace;
mod up;
mod watching;
mod webhooks;
mod world;

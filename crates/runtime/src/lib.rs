//! What every process of ours does the same way: configuration, telemetry, probes, life and death.
//!
//! A service is `Config`, `bind(config) -> Bound`, `Bound::run(shutdown)`; its `main` is a call of [`service::main`].

pub mod config;
pub mod http;
pub mod lifecycle;
pub mod probes;
pub mod service;
pub mod telemetry;

/// Of every service, and of the tools beside them. See ADR 0013.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

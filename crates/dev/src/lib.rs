//! The whole stack on one machine: what `cargo xtask up`, the demo, the benches and the system tests start.

mod backup;
pub mod bench;
pub mod client;
pub mod demo;
pub mod fakes;
pub mod keys;
pub mod settings;
pub mod split;
pub mod stack;
pub mod tenants;
pub mod test_processes;
pub mod test_stack;
pub mod up;

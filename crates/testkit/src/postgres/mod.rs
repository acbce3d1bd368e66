//! A private PostgreSQL from the system's binaries: never as root, on 127.0.0.1 only, with a password of its own.
//!
//! [`Cluster::start`] runs one in a directory; [`shared`] gives the one that all tests of a run share, and
//! [`Shared::clone_of`] a database of its own to each test, cloned from a template in tens of milliseconds.

mod binaries;
mod cluster;
mod shared;

pub use binaries::{Binaries, find_binaries};
pub use cluster::{Cluster, Durability};
pub use shared::{Shared, TestDb, shared};

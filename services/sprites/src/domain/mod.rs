//! Pure rules: no SQL, no transport.

pub mod agent;
pub mod job;

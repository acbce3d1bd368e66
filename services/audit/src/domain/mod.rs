//! Pure rules: no SQL, no transport.

pub mod chain;

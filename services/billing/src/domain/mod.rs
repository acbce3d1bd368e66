//! Pure rules: no SQL, no transport.

pub mod meter;
pub mod period;
pub mod quota;

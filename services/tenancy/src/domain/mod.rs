//! Pure rules: no SQL, no transport.

pub mod email;
pub mod envelope;
pub mod grants;
pub mod settings;

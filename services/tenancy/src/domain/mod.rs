//! Pure rules: no SQL, no transport.

pub mod access;
pub mod domain_name;
pub mod email;
pub mod envelope;
pub mod grants;
pub mod life;
pub mod networks;
pub mod receipt;
pub mod settings;
pub mod slug;
pub mod support;
pub mod table;

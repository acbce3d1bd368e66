//! The RPCs.

mod events;
mod internal;
mod tenants;

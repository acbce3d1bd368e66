//! The RPCs.

mod internal;
mod plans;
mod subscriptions;
mod tenants;
mod usage;

//! The RPCs.

mod internal;
mod plans;
mod subscriptions;
mod usage;

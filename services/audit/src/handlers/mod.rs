//! The RPCs.

mod events;
mod internal;

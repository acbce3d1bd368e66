//! The RPCs.

mod agents;
mod integrations;
mod internal;
mod jobs;
mod runner;
mod work_items;

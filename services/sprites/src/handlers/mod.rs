//! The RPCs.

mod agents;
mod integrations;
mod internal;
mod jobs;
mod runner;
mod tenants;
mod work_items;

//! The only SQL of this service: plain functions over a bound connection.

pub mod agents;
pub mod github;
pub mod integrations;
pub mod jobs;
pub mod logs;
pub mod queue;
pub mod sprites;
pub mod work_items;

//! The runner inside a Sprite: it dials the gateway, waits for jobs, runs each with all its children under watch,
//! streams the output, and says how it ended. It needs nothing but HTTP, so it runs on a laptop, on Fly, anywhere.

pub mod api;
pub mod job;
pub mod mask;
pub mod output;
pub mod procs;
pub mod run;

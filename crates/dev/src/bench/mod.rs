//! Benches. Each prints its ratio to a baseline that was measured in the same run.

use std::io::Write as _;

use anyhow::Result;

mod gateway;
mod idle;
mod jobs;
pub mod peer;
mod tenancy;

/// Flags of `bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// `tenancy`, `jobs`, `gateway` or `idle`.
    #[arg(value_parser = ["tenancy", "jobs", "gateway", "idle"])]
    pub name: String,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs one.
pub async fn run(args: Args) -> Result<()> {
    let result = match args.name.as_str() {
        "tenancy" => tenancy::run().await?,
        "jobs" => jobs::run().await?,
        "gateway" => gateway::run().await?,
        _ => idle::run().await?,
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{result}")?;
    } else {
        for (key, value) in result.as_object().into_iter().flatten() {
            writeln!(out, "{key:<48} {value}")?;
        }
    }
    Ok(())
}

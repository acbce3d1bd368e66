//! Benches. Each prints its ratio to a baseline that was measured in the same run.

use std::io::Write as _;

use anyhow::Result;

mod django;
mod gateway;
mod idle;
mod jobs;
mod keys;
mod load;
pub mod peer;
mod scale;
mod setup;
mod tenancy;
mod turns;

/// Flags of `bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// `tenancy`, `jobs`, `gateway`, `keys` or `idle`.
    #[arg(value_parser = ["tenancy", "jobs", "gateway", "keys", "idle"])]
    pub name: String,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// For `keys`: how many requests memory is watched over.
    #[arg(long, default_value_t = 500_000)]
    pub requests: usize,
    /// For `tenancy`: how many tenants one database gets; 0: skip that part, which takes minutes and gigabytes at first.
    #[arg(long, default_value_t = 10_000)]
    pub tenants: usize,
}

/// Runs one.
pub async fn run(args: Args) -> Result<()> {
    let result = match args.name.as_str() {
        "tenancy" => tenancy::run(args.tenants).await?,
        "jobs" => jobs::run().await?,
        "gateway" => gateway::run().await?,
        "keys" => keys::run(args.requests).await?,
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

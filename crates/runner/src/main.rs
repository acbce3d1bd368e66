//! `nitejar-runner`: started by a Sprite's provider.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use nitejar_runner::run::{Options, run};

/// Runs the jobs of one Sprite.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where the gateway is, such as http://127.0.0.1:8080.
    #[arg(long, env = "NITEJAR_GATEWAY")]
    gateway: String,
    /// A file with the Sprite's token. Without it: NITEJAR_RUNNER_TOKEN.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// The Sprite's directory.
    #[arg(long)]
    dir: PathBuf,
    /// Jobs at the same time, 1 to 16.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    concurrency: u32,
    /// Exit after so many seconds without an answer of the gateway.
    #[arg(long, default_value_t = 60)]
    offline_exit_seconds: u64,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).json().flatten_event(true).init();
    let args = Args::parse();
    let token = match &args.token_file {
        Some(path) => std::fs::read_to_string(path).map(|t| t.trim().to_owned()),
        None => std::env::var("NITEJAR_RUNNER_TOKEN").map_err(std::io::Error::other),
    };
    let token = match token {
        Ok(token) => token,
        Err(error) => {
            tracing::error!(%error, "no token: give --token-file or NITEJAR_RUNNER_TOKEN");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(Options {
        gateway: args.gateway,
        token,
        dir: args.dir,
        concurrency: args.concurrency,
        offline_exit: Duration::from_secs(args.offline_exit_seconds),
    }));
    ExitCode::from(code)
}

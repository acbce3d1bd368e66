//! `cargo xtask`: sets a machine up, builds what is needed, and runs it.

mod checks;
mod isolation;
mod packages;
mod run;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Everything that a developer does here.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the product on this machine: PostgreSQL, a fake GitHub, five services. Ctrl-C stops it, the data are kept.
    Up {
        /// Run the five services as processes of their own.
        #[arg(long)]
        split: bool,
        /// More flags for `nitejar-dev up`, such as --listen 127.0.0.1:9000 or --fresh. `-- --help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Tell the whole story over HTTP to a running `up`, step by step.
    Demo {
        /// More flags for `nitejar-dev demo`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Check formatting, generated files, layering, documents and lints, then run all tests.
    Test {
        /// Run this step alone.
        #[arg(long, value_name = "STEP")]
        only: Option<String>,
        /// List the steps.
        #[arg(long)]
        list: bool,
    },
    /// Attack one organization from another in every way we know, on a fresh stack, and write a report: HTML and JSON.
    ProveIsolation {
        /// Build a handler that trusts an id from the body: the proof must find it and nothing else, and this fails if not.
        #[arg(long)]
        broken: bool,
    },
    /// Measure against a baseline of the same run, in release mode.
    Bench {
        /// `tenancy`, `jobs`, `gateway`, `keys` or `idle`.
        name: String,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
        /// Flags of the bench, such as `--requests 10000000` of `keys`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Write docs/openapi.json anew from the proto files.
    Openapi {
        /// Only say whether it is as it should be.
        #[arg(long)]
        check: bool,
    },
    /// Install or name the system packages that are needed.
    Setup,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Up { split, rest } => run::up(split, &rest),
        Command::Demo { rest } => run::demo(&rest),
        Command::Test { only, list } => test::run(only.as_deref(), list),
        Command::ProveIsolation { broken } => isolation::prove(broken),
        Command::Bench { name, json, rest } => run::bench(&name, json, &rest),
        Command::Openapi { check } => run::openapi(check),
        Command::Setup => packages::ensure(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

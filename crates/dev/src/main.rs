//! `nitejar-dev`: what `cargo xtask` builds and runs.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nitejar_dev::{bench, demo, fakes, tenants, up};

/// The whole stack on one machine.
#[derive(Debug, Parser)]
#[command(name = "nitejar-dev")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs PostgreSQL, a fake GitHub and the five services until Ctrl-C.
    Up(up::Args),
    /// Tells the whole story over HTTP to a running `up`.
    Demo(demo::Args),
    /// Runs the fake GitHub and the mailbox for a stack that runs elsewhere, such as in containers.
    Fakes(fakes::Args),
    /// Takes one organization into a folder, or puts it back.
    Tenants(tenants::Args),
    /// Measures, and prints ratios to a baseline of the same run.
    Bench(bench::Args),
    /// What `bench gateway` compares with.
    #[command(hide = true)]
    Peer(bench::peer::Args),
    /// Prints the OpenAPI document.
    Openapi,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Up(args) => Box::pin(up::run(args)).await,
            Command::Demo(args) => Box::pin(demo::run(args)).await,
            Command::Fakes(args) => fakes::run(args).await,
            Command::Bench(args) => Box::pin(bench::run(args)).await,
            Command::Tenants(args) => Box::pin(tenants::run(args)).await,
            Command::Peer(args) => bench::peer::run(args).await,
            Command::Openapi => openapi(),
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stdout, reason = "the document is the output")]
fn openapi() -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(&nitejar_gateway::openapi::document())?);
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a person at a terminal reads it")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

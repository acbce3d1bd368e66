//! The gateway service as a process.

use std::process::ExitCode;

fn main() -> ExitCode {
    nitejar_runtime::service::main(
        "gateway",
        |config: &nitejar_gateway::Config| &config.telemetry,
        nitejar_gateway::bind,
    )
}

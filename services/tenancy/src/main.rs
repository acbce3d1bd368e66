//! The tenancy service as a process.

use std::process::ExitCode;

fn main() -> ExitCode {
    nitejar_runtime::service::main(
        "tenancy",
        |config: &nitejar_tenancy::Config| &config.telemetry,
        nitejar_tenancy::bind,
    )
}

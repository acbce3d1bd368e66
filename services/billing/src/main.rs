//! The billing service as a process.

use std::process::ExitCode;

fn main() -> ExitCode {
    nitejar_runtime::service::main(
        "billing",
        |config: &nitejar_billing::Config| &config.telemetry,
        nitejar_billing::bind,
    )
}

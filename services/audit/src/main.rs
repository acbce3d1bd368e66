//! The audit service as a process.

use std::process::ExitCode;

fn main() -> ExitCode {
    nitejar_runtime::service::main(
        "audit",
        |config: &nitejar_audit::Config| &config.telemetry,
        nitejar_audit::bind,
    )
}

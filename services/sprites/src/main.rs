//! The sprites service as a process.

use std::process::ExitCode;

fn main() -> ExitCode {
    nitejar_runtime::service::main(
        "sprites",
        |config: &nitejar_sprites::Config| &config.telemetry,
        nitejar_sprites::bind,
    )
}

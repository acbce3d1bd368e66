//! What can go wrong, as a text for people and an exit code for programs.

use std::io::Write as _;
use std::process::ExitCode;

use serde_json::Value;

/// The result of everything here.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    text: String,
}

/// For `--help`.
pub const EXIT_CODES: &str = "Exit codes:
  0  done
  1  something else went wrong
  2  the command is not understood
  3  not signed in, or the credential is not valid
  4  not permitted, or not within the plan
  5  there is no such thing
  6  its state does not allow this, or the request is not valid
  7  the service can't answer now, or too often asked: try again
  8  the job did not complete";

impl Failure {
    /// Of this program or its surroundings.
    pub fn new(text: impl Into<String>) -> Self {
        Self { code: 1, text: text.into() }
    }

    /// Nobody is signed in.
    pub fn signed_out() -> Self {
        Self { code: 3, text: "Nobody is signed in. Run: nitejar login".into() }
    }

    /// A job that failed.
    pub fn job(text: impl Into<String>) -> Self {
        Self { code: 8, text: text.into() }
    }

    /// The network.
    pub fn network(error: &reqwest::Error) -> Self {
        Self { code: 7, text: format!("The service can't be reached: {error}. Check --url, and try again.") }
    }

    /// A refusal of the API.
    pub fn refused(status: u16, problem: &Value) -> Self {
        let code = match status {
            401 => 3,
            402 | 403 => 4,
            404 => 5,
            400..=428 => 6,
            429 | 500.. => 7,
            _ => 1,
        };
        let mut text = problem["detail"]
            .as_str()
            .map_or_else(|| format!("The service answered {status}."), str::to_owned);
        for error in problem["errors"].as_array().into_iter().flatten() {
            let part = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
            text.push_str(&format!("\n  {} {}", part("pointer").trim_start_matches('/'), part("detail")));
        }
        if status == 401 {
            text.push_str("\nSign in again: nitejar login");
        }
        if let Some(id) = problem["request_id"].as_str() {
            text.push_str(&format!("\n  ({} {id})", problem["code"].as_str().unwrap_or_default()));
        }
        Self { code, text }
    }

    /// Whether there is no such thing.
    pub fn is_not_found(&self) -> bool {
        self.code == 5
    }

    /// Says it on the terminal.
    pub fn tell(&self) -> ExitCode {
        if self.code != 0 {
            let _ = writeln!(std::io::stderr(), "nitejar: {}", self.text);
        }
        ExitCode::from(self.code)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // Whoever read our output has gone: `nitejar … | head`.
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self { code: 0, text: String::new() };
        }
        Self::new(error.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(error.to_string())
    }
}

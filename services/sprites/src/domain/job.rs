//! How a job ends, and when it is tried again.

use chrono::Duration;

/// Attempts of a job, counting only those that the infrastructure spoiled.
pub const MAX_ATTEMPTS: i32 = 5;
/// Output of one job, in bytes.
pub const MAX_LOG: i64 = 10 << 20;

/// What a runner says of the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command did its work.
    Succeeded,
    /// The command failed: its own fault, counted.
    Failed,
    /// The agent did not take it: not counted.
    Declined,
    /// Our fault: tried again, not counted.
    Infrastructure,
    /// It was told to stop.
    Cancelled,
    /// It was taken from a Sprite whose work stands still: it begins anew, and nothing is counted.
    Interrupted,
}

impl Outcome {
    /// The outcome of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "succeeded" => Self::Succeeded,
            "failed" => Self::Failed,
            "declined" => Self::Declined,
            "infrastructure" => Self::Infrastructure,
            "cancelled" => Self::Cancelled,
            _ => return None,
        })
    }
}

/// What becomes of the unit that billing holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// Counted.
    Commit,
    /// Given back.
    Release,
    /// Kept for the next attempt.
    Keep,
}

/// A job after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// Its state.
    pub state: &'static str,
    /// Its quota.
    pub quota: Quota,
    /// How long to wait before the next attempt.
    pub wait: Option<Duration>,
}

/// What follows an outcome after so many attempts.
pub fn after(outcome: Outcome, attempts: i32, max_attempts: i32) -> Next {
    let end = |state, quota| Next { state, quota, wait: None };
    match outcome {
        Outcome::Succeeded => end("completed", Quota::Commit),
        Outcome::Failed => end("failed", Quota::Commit),
        Outcome::Declined => end("completed", Quota::Release),
        // It ran, so it did work.
        Outcome::Cancelled => end("cancelled", Quota::Commit),
        Outcome::Infrastructure if attempts >= max_attempts => end("dead", Quota::Release),
        Outcome::Interrupted => Next { state: "queued", quota: Quota::Keep, wait: Some(Duration::zero()) },
        Outcome::Infrastructure => {
            Next { state: "queued", quota: Quota::Keep, wait: Some(backoff(attempts)) }
        }
    }
}

/// 1 s, doubling, at most 5 minutes.
fn backoff(attempts: i32) -> Duration {
    let exponent = u32::try_from(attempts - 1).unwrap_or(0).min(9);
    Duration::seconds((1 << exponent).min(300))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_infrastructure_is_forgiven_five_times() {
        let waits: Vec<_> = (1..=5)
            .map(|n| after(Outcome::Infrastructure, n, MAX_ATTEMPTS).wait.map(|w| w.num_seconds()))
            .collect();
        assert_eq!(waits, [Some(1), Some(2), Some(4), Some(8), None]);
        let interrupted = after(Outcome::Interrupted, 5, MAX_ATTEMPTS);
        assert_eq!(
            (interrupted.state, interrupted.quota, interrupted.wait),
            ("queued", Quota::Keep, Some(Duration::zero()))
        );
        let dead = after(Outcome::Infrastructure, 5, MAX_ATTEMPTS);
        assert_eq!((dead.state, dead.quota), ("dead", Quota::Release));
    }

    #[test]
    fn work_counts_and_what_was_no_work_does_not() {
        assert_eq!(after(Outcome::Succeeded, 1, 5).quota, Quota::Commit);
        assert_eq!(after(Outcome::Failed, 1, 5), Next { state: "failed", quota: Quota::Commit, wait: None });
        assert_eq!(after(Outcome::Declined, 1, 5).quota, Quota::Release);
    }
}

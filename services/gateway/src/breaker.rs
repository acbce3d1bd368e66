//! What protects services that are in trouble, and callers from waiting for them: a circuit breaker and a budget of retries
//! for each upstream.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nitejar_common::error::{Error, Result};

/// Failures in a row after which a service is left alone.
const FAILURES: u32 = 5;
/// For how long at first.
const FIRST: Duration = Duration::from_millis(200);
/// For how long at most.
const LONGEST: Duration = Duration::from_secs(5);
/// Of calls, so many may be repeated: a service that fails all of them gets a tenth more, not twice as many.
const SHARE: f64 = 0.1;
/// Retries that are saved up at most.
const SAVED: f64 = 50.0;

/// One upstream's state.
#[derive(Debug)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Debug)]
struct State {
    failures: u32,
    /// Nobody calls until then; afterwards one call at a time tries.
    open_until: Option<Instant>,
    pause: Duration,
    /// A call is trying.
    probing: Option<Instant>,
    retries: f64,
}

impl Default for Breaker {
    fn default() -> Self {
        let state = State { failures: 0, open_until: None, pause: FIRST, probing: None, retries: SAVED };
        Self(Mutex::new(state))
    }
}

impl Breaker {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before a call: refused at once while the service is left alone.
    pub(crate) fn enter(&self, now: Instant) -> Result<()> {
        let mut state = self.state();
        state.retries = (state.retries + SHARE).min(SAVED);
        let Some(until) = state.open_until else { return Ok(()) };
        // A call that never came back (its task was dropped) tries no longer.
        let trying = state.probing.is_some_and(|since| now < since + LONGEST);
        if now < until || trying {
            return Err(Error::unavailable().because("the circuit is open"));
        }
        state.probing = Some(now);
        Ok(())
    }

    /// After a call: did the service answer, whatever it said?
    pub(crate) fn leave(&self, answered: bool, now: Instant) {
        let mut state = self.state();
        if answered {
            let retries = state.retries;
            *state = State { failures: 0, open_until: None, pause: FIRST, probing: None, retries };
            return;
        }
        state.failures += 1;
        if state.failures >= FAILURES {
            if state.open_until.is_some() && state.probing.take().is_some() {
                state.pause = (state.pause * 2).min(LONGEST);
            }
            state.open_until = Some(now + state.pause);
        }
    }

    /// Whether one more try is within the budget.
    pub(crate) fn may_retry(&self) -> bool {
        let mut state = self.state();
        if state.retries < 1.0 {
            return false;
        }
        state.retries -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_in_a_row_and_closes_after_one_success() {
        let breaker = Breaker::default();
        let start = Instant::now();
        for _ in 0..FAILURES {
            assert!(breaker.enter(start).is_ok());
            breaker.leave(false, start);
        }
        assert!(breaker.enter(start).is_err());
        let later = start + FIRST;
        assert!(breaker.enter(later).is_ok(), "one tries");
        assert!(breaker.enter(later).is_err(), "and no other meanwhile");
        breaker.leave(false, later);
        assert!(breaker.enter(later + FIRST).is_err(), "the pause doubled");
        let last = later + FIRST * 2;
        assert!(breaker.enter(last).is_ok());
        breaker.leave(true, last);
        assert!(breaker.enter(last).is_ok() && breaker.enter(last).is_ok());
    }

    #[test]
    fn a_success_in_between_starts_anew() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for i in 0..100 {
            breaker.leave(i % 4 == 0, now);
        }
        assert!(breaker.enter(now).is_ok());
    }

    #[test]
    fn retries_are_a_tenth_of_calls() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        while breaker.may_retry() {}
        (0..1000).for_each(|_| drop(breaker.enter(now)));
        let mut saved = 0;
        while breaker.may_retry() {
            saved += 1;
        }
        assert!((49..=50).contains(&saved), "{saved}: no more than is saved up");
        let tries = (0..1000).filter(|_| breaker.enter(now).is_ok() && breaker.may_retry()).count();
        assert!((99..=100).contains(&tries), "{tries}");
    }
}

//! One subject's requests in a sliding window: what came in this window, and of the one before the part that still counts.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// Seconds of a window.
pub(crate) const WINDOW: i64 = 60;

/// What is left after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Allowed in a window.
    pub(crate) limit: u64,
    /// More requests that would be allowed now.
    pub(crate) remaining: u64,
    /// Until the window ends.
    pub(crate) reset: Duration,
}

/// Counts of one subject.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    /// Windows since 1970.
    number: i64,
    /// Requests in this window, here and, as far as it is known, at the other replicas.
    current: u64,
    /// In the one before.
    previous: u64,
    /// Of `current`, what the others do not know yet.
    unshared: u64,
    /// The same of `previous`.
    late: u64,
}

impl Window {
    fn turn(&mut self, number: i64) {
        match number - self.number {
            0 => {}
            1 => {
                self.previous = self.current;
                self.late = self.unshared;
                self.current = 0;
                self.unshared = 0;
            }
            // Also when the clock went back.
            _ => *self = Self { number, ..Self::default() },
        }
        self.number = number;
    }

    /// Counts a request, or refuses it: then says how long until one is allowed.
    pub(crate) fn take(&mut self, limit: u64, now: DateTime<Utc>) -> Result<Left, Duration> {
        let millis = now.timestamp_millis();
        let length = WINDOW * 1000;
        self.turn(millis.div_euclid(length));
        let gone = u64::try_from(millis.rem_euclid(length)).unwrap_or(0);
        let length = length.unsigned_abs();
        // Rounded up: a part of a request counts as one.
        let used = self.current + (self.previous * (length - gone)).div_ceil(length);
        if used >= limit {
            return Err(self.wait(limit, gone, length));
        }
        self.current += 1;
        self.unshared += 1;
        let reset = Duration::from_millis(length - gone);
        Ok(Left { limit, remaining: limit - used - 1, reset })
    }

    fn wait(&self, limit: u64, gone: u64, length: u64) -> Duration {
        // The part of a window that must pass until what counts of `old`, with `new`, is below the limit.
        let until = |old: u64, new: u64| match limit.checked_sub(new + 1) {
            Some(room) if old > room => length - room * length / old.max(1),
            Some(_) => 0,
            None => length,
        };
        let here = until(self.previous, self.current);
        let millis =
            if here < length { here.saturating_sub(gone) } else { length - gone + until(self.current, 0) };
        Duration::from_millis(millis.max(1))
    }

    /// How long until a request would be allowed, if one is refused now. Nothing is counted.
    pub(crate) fn refused_now(&self, limit: u64, now: DateTime<Utc>) -> Option<Duration> {
        self.clone().take(limit, now).err()
    }

    /// Whether the others know everything.
    pub(crate) fn is_told(&self) -> bool {
        self.unshared == 0 && self.late == 0
    }

    /// What the others must be told: windows, and how many in each. It counts as told.
    pub(crate) fn share(&mut self) -> impl Iterator<Item = (i64, u64)> + use<> {
        let late = (self.number - 1, std::mem::take(&mut self.late));
        let unshared = (self.number, std::mem::take(&mut self.unshared));
        [late, unshared].into_iter().filter(|(_, count)| *count > 0)
    }

    /// What all together counted in a window.
    pub(crate) fn learn(&mut self, number: i64, total: u64) {
        if number == self.number {
            self.current = self.current.max(total + self.unshared);
        } else if number == self.number - 1 {
            self.previous = self.previous.max(total + self.late);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(600_000_000 + (seconds * 1000.0) as i64).unwrap()
    }

    fn fill(window: &mut Window, limit: u64, seconds: f64) -> u64 {
        (0..).find(|_| window.take(limit, at(seconds)).is_err()).unwrap()
    }

    #[test]
    fn a_limit_holds_over_every_sixty_seconds() {
        let mut w = Window::default();
        assert_eq!(fill(&mut w, 100, 50.0), 100);
        // Half of the next window later, half of them still count.
        assert_eq!(fill(&mut w, 100, 90.0), 50);
        assert_eq!(fill(&mut w, 100, 119.0), 48);
        assert_eq!(fill(&mut w, 100, 1000.0), 100);
    }

    #[test]
    fn who_waits_as_told_is_served_and_not_much_earlier() {
        for (before, start) in [(100, 10.0), (100, 59.9), (40, 0.0)] {
            let mut w = Window::default();
            (0..before).for_each(|_| assert!(w.take(1000, at(start - 60.0)).is_ok()));
            fill(&mut w, 100, start);
            let wait = w.take(100, at(start)).unwrap_err().as_secs_f64();
            assert!(w.clone().take(100, at(start + wait + 0.001)).is_ok(), "{before} {start} {wait}");
            assert!(w.take(100, at(start + wait - 0.7)).is_err(), "{before} {start} {wait}");
        }
    }

    #[test]
    fn what_others_counted_counts_here_and_is_told_once() {
        let mut w = Window::default();
        (0..10).for_each(|_| assert!(w.take(100, at(0.0)).is_ok()));
        let (number, told) = w.share().next().unwrap();
        assert_eq!((told, w.share().count()), (10, 0));
        w.take(100, at(0.0)).unwrap();
        w.learn(number, 60);
        assert_eq!(w.take(100, at(0.0)).unwrap().remaining, 100 - 60 - 2);
        // What was not told when the minute turned is told after it.
        w.take(100, at(60.0)).unwrap();
        assert_eq!(w.share().collect::<Vec<_>>(), [(number, 2), (number + 1, 1)]);
    }
}

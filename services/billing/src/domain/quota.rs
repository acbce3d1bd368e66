//! Decisions about quota, from numbers alone.

/// A meter's state in one period, and the limit that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Counted for good.
    pub used: i64,
    /// Held.
    pub reserved: i64,
    /// The plan's limit; none: unlimited.
    pub limit: Option<i64>,
}

impl Level {
    /// How many more may be held.
    pub fn free(self) -> i64 {
        match self.limit {
            None => i64::MAX,
            Some(limit) => (limit - self.used - self.reserved).max(0),
        }
    }

    /// Whether 80 % of the limit is reached. Below a limit of 5 that is the limit itself, and no warning helps.
    pub fn warns(self) -> bool {
        self.limit.is_some_and(|limit| limit >= 5 && (self.used + self.reserved) * 10 >= limit * 8)
    }
}

/// The size of an API-call lease: a hundredth of the limit, 1 to 1,000, and never more than is free.
pub fn lease_size(level: Level) -> i64 {
    let wish = level.limit.map_or(1_000, |limit| (limit / 100).clamp(1, 1_000));
    wish.min(level.free())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_comes_at_eighty_percent() {
        let level = |used, reserved, limit| Level { used, reserved, limit };
        assert!(!level(79, 0, Some(100)).warns());
        assert!(level(79, 1, Some(100)).warns());
        assert!(level(4, 0, Some(5)).warns() && !level(3, 0, Some(5)).warns());
        assert!(!level(1, 0, Some(1)).warns());
        assert!(!level(1 << 40, 0, None).warns());
        assert!(!level(0, 0, Some(0)).warns());
    }

    #[test]
    fn nothing_is_free_beyond_the_limit() {
        let level = |used, reserved, limit| Level { used, reserved, limit };
        assert_eq!(level(60, 30, Some(100)).free(), 10);
        assert_eq!(level(200, 0, Some(100)).free(), 0, "after a downgrade");
        assert_eq!(lease_size(level(0, 0, Some(100_000))), 1_000);
        assert_eq!(lease_size(level(0, 0, Some(500))), 5);
        assert_eq!(lease_size(level(498, 0, Some(500))), 2);
        assert_eq!(lease_size(level(500, 0, Some(500))), 0);
        assert_eq!(lease_size(level(0, 0, None)), 1_000);
    }
}

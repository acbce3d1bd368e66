//! Usage periods: calendar months in UTC.

use std::fmt;

use chrono::{DateTime, Datelike as _, NaiveDate, Utc};

/// A calendar month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period {
    year: i32,
    month: u32,
}

/// The period of what exists rather than happens.
pub const LIVE: &str = "live";

impl Period {
    /// The month that an instant is in.
    pub fn of(at: DateTime<Utc>) -> Self {
        Self { year: at.year(), month: at.month() }
    }

    /// From `2026-11`.
    pub fn parse(text: &str) -> Option<Self> {
        let (year, month) = text.split_once('-')?;
        let period = Self { year: year.parse().ok()?, month: month.parse().ok()? };
        (text.len() == 7 && period.first().is_some()).then_some(period)
    }

    /// The first instant.
    pub fn start(self) -> DateTime<Utc> {
        self.first().and_then(|d| d.and_hms_opt(0, 0, 0)).map(|t| t.and_utc()).unwrap_or_default()
    }

    /// The first instant of the month after.
    pub fn end(self) -> DateTime<Utc> {
        let next = if self.month == 12 {
            Self { year: self.year + 1, month: 1 }
        } else {
            Self { year: self.year, month: self.month + 1 }
        };
        next.start()
    }

    fn first(self) -> Option<NaiveDate> {
        NaiveDate::from_ymd_opt(self.year, self.month, 1)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_join_without_gap_or_overlap() {
        let mut at = DateTime::parse_from_rfc3339("2023-12-31T23:59:59.999999Z").unwrap().to_utc();
        for _ in 0..30 {
            let period = Period::of(at);
            assert!(period.start() <= at && at < period.end());
            assert_eq!(Period::parse(&period.to_string()), Some(period));
            assert_eq!(Period::of(period.end()).start(), period.end());
            at = period.end();
        }
        for wrong in ["", "2026", "2026-13", "2026-00", "2026-1", "x026-01", "2026-01-01"] {
            assert_eq!(Period::parse(wrong), None, "{wrong}");
        }
    }
}

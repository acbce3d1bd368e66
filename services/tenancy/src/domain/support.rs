//! A support grant's life.
//!
//! ```text
//!              approved ──► revoked
//!            ↗
//!  requested ─► denied        and each that stands too long is expired
//! ```

use chrono::{DateTime, Duration, Utc};
use nitejar_common::error::{Code, Error, Result};

use crate::store::support::GrantRow;

/// So long a request waits for its answer.
pub const WAITS: Duration = Duration::hours(24);

impl GrantRow {
    /// What it is by now.
    pub fn state_at(&self, now: DateTime<Utc>) -> &str {
        match self.state.as_str() {
            "requested" | "approved" if self.expires_at <= now => "expired",
            state => state,
        }
    }

    /// Approves a request: its time begins. Whether that is new.
    pub fn approve(&mut self, by: &str, now: DateTime<Utc>) -> Result<bool> {
        if !self.turn("requested", "approved", now)? {
            return Ok(false);
        }
        self.decide(by, now);
        self.expires_at = now + Duration::minutes(self.minutes.into());
        Ok(true)
    }

    /// The same where owners can't be asked: by another operator than who asked.
    pub fn break_glass(&mut self, by: &str, now: DateTime<Utc>) -> Result<bool> {
        if self.operator == by {
            let detail = "You asked for it yourself: another operator must approve it.";
            return Err(Error::new(Code::PermissionDenied, detail));
        }
        if !self.break_glass {
            return Err(Error::new(Code::Conflict, "Only an owner of the organization approves this one."));
        }
        self.approve(by, now)
    }

    /// Refuses a request. Whether that is new.
    pub fn deny(&mut self, by: &str, now: DateTime<Utc>) -> Result<bool> {
        let new = self.turn("requested", "denied", now)?;
        if new {
            self.decide(by, now);
        }
        Ok(new)
    }

    /// Ends an access before its time. Whether that is new.
    pub fn revoke(&mut self, by: &str, now: DateTime<Utc>) -> Result<bool> {
        let new = self.turn("approved", "revoked", now)?;
        if new {
            by.clone_into(&mut self.revoked_by);
            self.expires_at = now;
        }
        Ok(new)
    }

    fn decide(&mut self, by: &str, now: DateTime<Utc>) {
        by.clone_into(&mut self.decided_by);
        self.decided_at = Some(now);
    }

    /// From one state to another; what is so already is nothing new.
    fn turn(&mut self, from: &str, to: &str, now: DateTime<Utc>) -> Result<bool> {
        match self.state_at(now) {
            state if state == to => Ok(false),
            state if state == from => {
                to.clone_into(&mut self.state);
                Ok(true)
            }
            state => Err(Error::new(Code::Conflict, format!("This grant is {state}, so it can't be {to}."))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requested(now: DateTime<Utc>) -> GrantRow {
        GrantRow {
            id: "grant_1".into(),
            operator: "ann".into(),
            reason: "ticket 12".into(),
            minutes: 30,
            break_glass: true,
            state: "requested".into(),
            requested_at: now,
            decided_by: String::new(),
            decided_at: None,
            revoked_by: String::new(),
            expires_at: now + WAITS,
        }
    }

    #[test]
    fn each_turn_is_taken_from_its_state_alone_and_once() {
        let now = DateTime::UNIX_EPOCH;
        type Turn = fn(&mut GrantRow, DateTime<Utc>) -> Result<bool>;
        let turns: [(&str, Turn); 4] = [
            ("approved", |g, now| g.approve("user_1", now)),
            ("approved", |g, now| g.break_glass("bob", now)),
            ("denied", |g, now| g.deny("user_1", now)),
            ("revoked", |g, now| g.revoke("user_1", now)),
        ];
        for state in ["requested", "approved", "denied", "revoked", "expired"] {
            for (to, turn) in turns {
                let mut grant = requested(now);
                match state {
                    "expired" => grant.expires_at = now,
                    state => state.clone_into(&mut grant.state),
                }
                let new = turn(&mut grant, now).map_err(|e| e.code());
                let expected = match (state, to) {
                    _ if state == to => Ok(false),
                    ("requested", "approved" | "denied") | ("approved", "revoked") => Ok(true),
                    _ => Err(Code::Conflict),
                };
                assert_eq!(new, expected, "{state} to {to}");
            }
        }
    }

    #[test]
    fn its_time_begins_with_the_approval_and_ends_by_itself() {
        let (now, later) = (DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH + Duration::hours(23));
        let mut grant = requested(now);
        assert!(grant.approve("user_1", later).unwrap());
        assert_eq!(grant.expires_at, later + Duration::minutes(30));
        assert_eq!(grant.state_at(later + Duration::minutes(29)), "approved");
        assert_eq!(grant.state_at(later + Duration::minutes(30)), "expired");
        assert!(requested(now).approve("user_1", now + WAITS).is_err(), "a request lapses");
    }

    #[test]
    fn the_glass_is_broken_by_two() {
        let now = DateTime::UNIX_EPOCH;
        assert_eq!(requested(now).break_glass("ann", now).unwrap_err().code(), Code::PermissionDenied);
        let mut plain = GrantRow { break_glass: false, ..requested(now) };
        assert_eq!(plain.break_glass("bob", now).unwrap_err().code(), Code::Conflict);
    }
}

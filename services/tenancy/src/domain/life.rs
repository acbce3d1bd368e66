//! What may follow what in an organization's life.
//!
//! ```text
//! provisioning → active ⇄ suspended          operators suspend and resume
//!                  ↓ ↑         ↓ ↑
//!                 deleting (30 days)          owners delete and restore
//!                    ↓                        its time has come, and no legal hold
//!                 purging → purged            no way back
//! ```
//! Suspension is a fact of its own beside the state: a deletion that is taken back ends in it again.

use chrono::{DateTime, Duration, Utc};
use nitejar_common::error::{Code, Error, Result};

use crate::store::orgs::OrgsRow;

/// Where an organization is. The names are those of the API and the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Being created.
    Provisioning,
    /// Everything works.
    Active,
    /// Work and changes wait.
    Suspended,
    /// The same, and it will be purged.
    Deleting,
    /// Being deleted.
    Purging,
    /// Gone.
    Purged,
}

impl State {
    /// The state of that name.
    pub fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "provisioning" => Self::Provisioning,
            "active" => Self::Active,
            "suspended" => Self::Suspended,
            "deleting" => Self::Deleting,
            "purging" => Self::Purging,
            "purged" => Self::Purged,
            other => return Err(Error::internal(format!("an organization is {other}"))),
        })
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deleting => "deleting",
            Self::Purging => "purging",
            Self::Purged => "purged",
        }
    }
}

// What is done to an organization. `Ok(false)`: it was so already, nothing changes.
impl OrgsRow {
    fn living(&self) -> Result<State> {
        match State::parse(&self.state)? {
            State::Provisioning => Err(Error::new(Code::Conflict, "It is still being created. Try again.")),
            State::Purging | State::Purged => Err(Error::not_found(format!("organization {}", self.id))),
            state => Ok(state),
        }
    }

    fn move_to(&mut self, state: State) {
        state.as_str().clone_into(&mut self.state);
        self.state_version += 1;
    }

    /// Where it stands when nobody wants it deleted.
    fn at_rest(&self) -> State {
        if self.suspended_at.is_some() { State::Suspended } else { State::Active }
    }

    /// Its work waits.
    pub fn suspend(&mut self, reason: &str, now: DateTime<Utc>) -> Result<bool> {
        let state = self.living()?;
        if self.suspended_at.is_some() && self.suspended_because == reason {
            return Ok(false);
        }
        self.suspended_at.get_or_insert(now);
        reason.clone_into(&mut self.suspended_because);
        if state == State::Active {
            self.move_to(State::Suspended);
        }
        Ok(true)
    }

    /// Its work goes on.
    pub fn resume(&mut self) -> Result<bool> {
        let state = self.living()?;
        if self.restoring.is_some() {
            let detail = "A backup is being put back, or that was interrupted: half of it is of then. Restore it again, or another \
                 backup of it.";
            return Err(Error::new(Code::Conflict, detail));
        }
        if self.suspended_at.take().is_none() {
            return Ok(false);
        }
        self.suspended_because.clear();
        if state == State::Suspended {
            self.move_to(State::Active);
        }
        Ok(true)
    }

    /// It is to be deleted after `window`.
    pub fn schedule_deletion(&mut self, by: &str, now: DateTime<Utc>, window: Duration) -> Result<bool> {
        if self.living()? == State::Deleting {
            return Ok(false);
        }
        self.deletion_requested_at = Some(now);
        by.clone_into(&mut self.deletion_requested_by);
        self.purge_after = Some(now + window);
        self.move_to(State::Deleting);
        Ok(true)
    }

    /// It is kept after all.
    pub fn restore(&mut self) -> Result<bool> {
        if self.living()? != State::Deleting {
            return Ok(false);
        }
        self.deletion_requested_at = None;
        self.deletion_requested_by.clear();
        self.purge_after = None;
        self.move_to(self.at_rest());
        Ok(true)
    }

    /// Nothing of it may be deleted.
    pub fn hold(&mut self, by: &str, reason: &str, now: DateTime<Utc>) -> Result<bool> {
        self.living()?;
        if self.held_at.is_some() && self.held_because == reason {
            return Ok(false);
        }
        self.held_at.get_or_insert(now);
        by.clone_into(&mut self.held_by);
        reason.clone_into(&mut self.held_because);
        Ok(true)
    }

    /// The hold is over.
    pub fn release(&mut self) -> Result<bool> {
        self.living()?;
        self.held_by.clear();
        self.held_because.clear();
        Ok(self.held_at.take().is_some())
    }

    /// Its purge begins, if its time has come and nothing keeps it.
    pub fn begin_purge(&mut self, now: DateTime<Utc>) -> Result<bool> {
        let due = self.living()? == State::Deleting && self.purge_after.is_some_and(|at| at <= now);
        if !due || self.held_at.is_some() {
            return Ok(false);
        }
        self.move_to(State::Purging);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn org() -> (OrgsRow, DateTime<Utc>) {
        (OrgsRow { id: "org_1".into(), state: "active".into(), ..OrgsRow::default() }, DateTime::UNIX_EPOCH)
    }

    #[test]
    fn a_deletion_taken_back_does_not_end_a_suspension() {
        let (mut org, now) = org();
        assert!(org.suspend("unpaid", now).unwrap());
        assert!(!org.suspend("unpaid", now).unwrap(), "said twice");
        assert!(org.schedule_deletion("user_1", now, Duration::days(30)).unwrap());
        assert!(org.restore().unwrap());
        assert_eq!(org.state, "suspended");
        assert!(org.schedule_deletion("user_1", now, Duration::days(30)).unwrap());
        assert!(org.resume().unwrap(), "operators may resume meanwhile");
        assert_eq!(org.state, "deleting");
        assert!(org.restore().unwrap() && !org.restore().unwrap());
        assert_eq!((org.state.as_str(), org.state_version), ("active", 5));
    }

    #[test]
    fn a_purge_waits_for_its_time_and_for_a_hold() {
        let (mut org, now) = org();
        let after = now + Duration::days(30);
        assert!(!org.begin_purge(after).unwrap(), "nobody asked for it");
        org.schedule_deletion("user_1", now, Duration::days(30)).unwrap();
        assert!(org.hold("ann", "case 1", now).unwrap());
        assert!(!org.begin_purge(after).unwrap(), "held");
        assert!(org.release().unwrap() && !org.release().unwrap());
        assert!(!org.begin_purge(after - Duration::seconds(1)).unwrap(), "too early");
        assert!(org.begin_purge(after).unwrap());
        for done in [
            org.restore(),
            org.suspend("x", now),
            org.hold("ann", "x", now),
            org.schedule_deletion("user_1", now, Duration::days(1)),
        ] {
            assert_eq!(done.unwrap_err().code(), Code::NotFound, "there is no way back");
        }
    }
}

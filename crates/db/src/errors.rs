//! What database errors mean to a caller.

use std::time::Duration;

use nitejar_common::error::{Code, Error};

/// Connection trouble is [`Code::Unavailable`], a lost race [`Code::Aborted`], the rest our fault.
pub fn from_sqlx(error: sqlx::Error) -> Error {
    match known(&error) {
        Some(known) => known.because(error),
        None => Error::from(error),
    }
}

/// The same for whatever error of ours holds, so that a handler's `?` says it, too.
pub(crate) fn classify(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
    error.downcast_ref().and_then(known)
}

fn known(error: &sqlx::Error) -> Option<Error> {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Some(Error::unavailable()),
        sqlx::Error::Database(db) => match db.code().as_deref() {
            // Serialization failure, deadlock, lock timeout.
            Some("40001" | "40P01" | "55P03") => Some(aborted()),
            // Roles are the cluster's: another of its databases, such as a clone of this one, granted or dropped the same one.
            Some("XX000" | "42704") if db.message().contains("concurrently") => Some(aborted()),
            // A tenant's tables were moved, restored or purged between our binding to them and asking them.
            Some("42P01" | "3F000") => Some(Error::unavailable()),
            // Too many connections, shutting down, starting up.
            Some("53300" | "57P01" | "57P02" | "57P03") => Some(Error::unavailable()),
            _ => None,
        },
        _ => None,
    }
}

fn aborted() -> Error {
    Error::new(Code::Aborted, "Another request got in between. Try again.")
        .retry_after(Duration::from_secs(1))
}

/// Whether a unique index or constraint of that name refused the row.
pub fn is_unique_violation(error: &sqlx::Error, constraint: &str) -> bool {
    error
        .as_database_error()
        .is_some_and(|db| db.is_unique_violation() && db.constraint() == Some(constraint))
}

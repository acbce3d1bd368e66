//! What database errors mean to a caller.

use std::time::Duration;

use nitejar_common::error::{Code, Error};

/// Connection trouble is [`Code::Unavailable`], a lost race [`Code::Aborted`], the rest our fault.
pub fn from_sqlx(error: sqlx::Error) -> Error {
    let soon = Duration::from_secs(1);
    match &error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Error::unavailable().because(error),
        sqlx::Error::Database(db) => match db.code().as_deref() {
            // Serialization failure, deadlock, lock timeout.
            Some("40001" | "40P01" | "55P03") => {
                Error::new(Code::Aborted, "Another request got in between. Try again.")
                    .retry_after(soon)
                    .because(error)
            }
            // Too many connections, shutting down, starting up.
            Some("53300" | "57P01" | "57P02" | "57P03") => Error::unavailable().because(error),
            _ => Error::from(error),
        },
        _ => Error::from(error),
    }
}

/// Whether a unique index or constraint of that name refused the row.
pub fn is_unique_violation(error: &sqlx::Error, constraint: &str) -> bool {
    error
        .as_database_error()
        .is_some_and(|db| db.is_unique_violation() && db.constraint() == Some(constraint))
}

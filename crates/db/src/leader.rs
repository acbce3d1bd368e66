//! One leader among replicas, by an advisory lock on a connection of its own.

use nitejar_common::error::Result;
use sqlx::{Connection as _, PgConnection};

use crate::{Db, bootstrap, errors};

/// Held while this process leads. Dropping it, or losing the connection, ends that.
pub struct LeaderGuard(PgConnection);

impl std::fmt::Debug for LeaderGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeaderGuard")
    }
}

impl LeaderGuard {
    /// Whether this process still leads: the connection that holds the lock answers.
    pub async fn still_leads(&mut self) -> bool {
        self.0.ping().await.is_ok()
    }
}

impl Db {
    /// Leads for `key`, if nobody else does.
    pub async fn try_leader(&self, key: i64) -> Result<Option<LeaderGuard>> {
        let login = bootstrap::login(&self.0.options, &self.0.config, &self.0.names.control());
        let mut conn = PgConnection::connect_with(&login).await.map_err(errors::from_sqlx)?;
        let got: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(key)
            .fetch_one(&mut conn)
            .await
            .map_err(errors::from_sqlx)?;
        Ok(got.then_some(LeaderGuard(conn)))
    }
}

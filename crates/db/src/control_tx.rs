//! A transaction on `control`: what is no tenant's.

use nitejar_common::error::Result;
use nitejar_common::id::OrgId;
use sqlx::{PgConnection, Postgres, Transaction};

use crate::{Db, errors};

/// A transaction with `control` as its search path and no tenant bound. Dropping it rolls back.
pub struct ControlTx {
    tx: Transaction<'static, Postgres>,
    pub(crate) db: Db,
}

impl std::fmt::Debug for ControlTx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ControlTx")
    }
}

impl Db {
    /// A transaction on `control`.
    pub async fn control(&self) -> Result<ControlTx> {
        let tx = self.0.control.begin().await.map_err(errors::from_sqlx)?;
        Ok(ControlTx { tx, db: self.clone() })
    }
}

impl Db {
    /// A connection to `control` for one statement, which is its own transaction: a third of a transaction's round trips.
    pub async fn control_once(&self) -> Result<sqlx::pool::PoolConnection<Postgres>> {
        self.0.control.acquire().await.map_err(errors::from_sqlx)
    }
}

impl Db {
    /// The same in the database where an organization's tables are: what `control` keeps for it is there.
    pub async fn control_of(&self, org: &OrgId) -> Result<sqlx::pool::PoolConnection<Postgres>> {
        self.home_of(org).await?.control_once().await
    }
}

impl ControlTx {
    /// The connection.
    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx
    }

    /// Makes the changes last.
    pub async fn commit(self) -> Result<()> {
        self.tx.commit().await.map_err(errors::from_sqlx)?;
        self.db.hint_outbox();
        Ok(())
    }
}

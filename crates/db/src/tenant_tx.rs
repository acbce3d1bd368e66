//! A transaction bound to one tenant.

use std::sync::Arc;
use std::time::Duration;

use nitejar_common::RequestCtx;
use nitejar_common::error::{Error, Result};
use nitejar_common::id::OrgId;
use nitejar_common::idempotency::Idempotency;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Row as _};
use tokio::sync::OwnedSemaphorePermit;

use crate::names::Names;
use crate::pool::{Bucket, Conn};
use crate::{Db, errors};

/// How often a transaction looks where its organization is.
const LOOKS: usize = 3;

/// A transaction that sees one tenant's schema with that tenant's privileges. Dropping it rolls back.
pub struct TenantTx {
    /// Taken when the transaction ends.
    held: Option<(Conn, OwnedSemaphorePermit)>,
    bucket: Arc<Bucket>,
    /// Where it is.
    pub(crate) db: Db,
    /// Who knows where everybody is.
    home: Db,
    org: OrgId,
    number: i64,
    /// Of the request that it is for.
    pub(crate) idempotency: Option<Idempotency>,
}

impl std::fmt::Debug for TenantTx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TenantTx(t_{})", self.number)
    }
}

impl Db {
    /// A transaction in the context's organization. [`nitejar_common::Code::NotFound`] when this service has none.
    pub async fn tenant(&self, ctx: &RequestCtx) -> Result<TenantTx> {
        self.begin(ctx, "BEGIN").await
    }

    /// The same, where a write is an error, and every statement sees the same state.
    pub async fn tenant_read(&self, ctx: &RequestCtx) -> Result<TenantTx> {
        self.begin(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
    }

    async fn begin(&self, ctx: &RequestCtx, begin: &str) -> Result<TenantTx> {
        let org = ctx.tenant()?;
        let mut why = String::new();
        for _ in 0..LOOKS {
            let (part, number) = self.place(org).await?;
            match part.bind(self, ctx, org, number, begin).await {
                // Its role is gone, or going at this very moment: it was purged, moved, or restored under another number, by
                // this replica or another.
                Err(sqlx::Error::Database(error))
                    if matches!(error.code().as_deref(), Some("22023" | "42501")) =>
                {
                    self.0.directory.forget(org);
                    why = error.to_string();
                }
                Err(sqlx::Error::PoolTimedOut) => {
                    return Err(Error::unavailable().because("no free connection within 5 s"));
                }
                bound => return bound.map_err(errors::from_sqlx),
            }
        }
        // The directory knows it; only it is never where it was a moment ago.
        Err(Error::unavailable().because(why))
    }

    async fn bind(
        &self,
        home: &Self,
        ctx: &RequestCtx,
        org: &OrgId,
        number: i64,
        begin: &str,
    ) -> sqlx::Result<TenantTx> {
        let names = &self.0.names;
        let bucket = Arc::clone(&self.0.buckets[usize::from(names.bucket_of(number))]);
        let sql = format!(
            "{begin}; SET LOCAL ROLE \"{}\"; SET LOCAL search_path = {}",
            names.role(number),
            Names::schema(number)
        );
        // A connection that idled may have been closed by the server: then, once, a fresh one.
        let mut last = false;
        loop {
            let (mut conn, permit) = bucket.acquire(number).await?;
            match conn.pg.execute(sqlx::raw_sql(AssertSqlSafe(sql.clone()))).await {
                Ok(_) => {
                    return Ok(TenantTx {
                        held: Some((conn, permit)),
                        bucket,
                        db: self.clone(),
                        home: home.clone(),
                        org: org.clone(),
                        number,
                        idempotency: ctx.idempotency.clone(),
                    });
                }
                Err(sqlx::Error::Io(_)) if !last => last = true,
                Err(error) => return Err(error),
            }
        }
    }
}

impl TenantTx {
    /// The connection, bound to the tenant.
    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.held.as_mut().expect("taken only by commit, which consumes self, and by drop").0.pg
    }

    /// The tenant's number here.
    pub fn number(&self) -> i64 {
        self.number
    }

    /// Makes the changes last. After an error nothing is known to have happened.
    pub async fn commit(mut self) -> Result<()> {
        self.conn().execute("COMMIT").await.map_err(errors::from_sqlx)?;
        if let Some((conn, _permit)) = self.held.take() {
            self.bucket.give_back(conn);
        }
        self.db.hint_outbox();
        Ok(())
    }
}

impl Drop for TenantTx {
    fn drop(&mut self) {
        let Some((mut conn, permit)) = self.held.take() else { return };
        let bucket = Arc::clone(&self.bucket);
        // Outside of a runtime the connection is dropped, which closes it: as safe, only slower.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (home, org, number) = (self.home.clone(), self.org.clone(), self.number);
        runtime.spawn(async move {
            // Something went wrong, perhaps because the schema was replaced by a restored one: then the next one looks anew.
            let sql = format!("ROLLBACK; SELECT to_regnamespace('{}') IS NOT NULL", Names::schema(number));
            let rollback = conn.pg.fetch_one(sqlx::raw_sql(AssertSqlSafe(sql)));
            if let Ok(Ok(row)) = tokio::time::timeout(Duration::from_secs(2), rollback).await {
                if !row.try_get::<bool, _>(0).unwrap_or(true) {
                    home.0.directory.forget(&org);
                }
                bucket.give_back(conn);
            }
            drop(permit);
        });
    }
}

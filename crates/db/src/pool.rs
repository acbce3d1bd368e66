//! Connections of one bucket. Our own small pool, because three things are needed that a general one does not offer: a
//! connection goes preferably to the tenant that it served last (its plans are still valid), it is closed after serving
//! so many different tenants (Postgres never shrinks its caches), and one that may still be inside a transaction is
//! never handed on.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{Connection as _, PgPool};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How long a request waits for a connection before it is told to come back.
const WAIT: Duration = Duration::from_secs(5);
/// Idle connections are closed after that long.
const IDLE: Duration = Duration::from_secs(60);

/// Idle for longer, a connection is asked whether it is still there.
const FRESH: Duration = Duration::from_secs(2);

/// A general pool for what is not bound to a tenant.
pub(crate) fn small(options: PgConnectOptions, size: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(size)
        .min_connections(0)
        .acquire_timeout(WAIT)
        .idle_timeout(IDLE)
        // A connection that was used a moment ago is there; asking each time would cost a round trip each time.
        .test_before_acquire(false)
        .before_acquire(|conn, meta| {
            Box::pin(async move {
                if meta.idle_for > FRESH {
                    conn.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options)
}

pub(crate) struct Bucket {
    options: PgConnectOptions,
    idle: Mutex<Vec<Conn>>,
    permits: Arc<Semaphore>,
    max_tenants: usize,
}

/// A connection and whom it served.
pub(crate) struct Conn {
    pub(crate) pg: PgConnection,
    tenants: HashSet<i64>,
    last: i64,
    since: Instant,
}

impl Bucket {
    pub(crate) fn new(options: PgConnectOptions, size: u32, max_tenants: usize) -> Self {
        let size = usize::try_from(size).unwrap_or(1);
        Self { options, idle: Mutex::default(), permits: Arc::new(Semaphore::new(size)), max_tenants }
    }

    /// A connection for a tenant, and the permit that must live as long. `PoolTimedOut` when there is none in time.
    pub(crate) async fn acquire(&self, tenant: i64) -> sqlx::Result<(Conn, OwnedSemaphorePermit)> {
        let late = |_| sqlx::Error::PoolTimedOut;
        let permit = tokio::time::timeout(WAIT, Arc::clone(&self.permits).acquire_owned())
            .await
            .map_err(late)?
            .map_err(|_| sqlx::Error::PoolClosed)?;
        if let Some(conn) = self.take_idle(tenant) {
            return Ok((conn, permit));
        }
        let pg =
            tokio::time::timeout(WAIT, PgConnection::connect_with(&self.options)).await.map_err(late)??;
        let conn = Conn { pg, tenants: HashSet::from([tenant]), last: tenant, since: Instant::now() };
        Ok((conn, permit))
    }

    fn take_idle(&self, tenant: i64) -> Option<Conn> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|c| c.since.elapsed() < IDLE);
        let at = idle.iter().rposition(|c| c.last == tenant).or_else(|| idle.len().checked_sub(1))?;
        let mut conn = idle.remove(at);
        conn.last = tenant;
        conn.tenants.insert(tenant);
        Some(conn)
    }

    /// Takes back a connection that is outside of any transaction.
    pub(crate) fn give_back(&self, mut conn: Conn) {
        if conn.tenants.len() >= self.max_tenants {
            return; // Dropping closes it.
        }
        conn.since = Instant::now();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
    }

    pub(crate) fn close_all(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Closes what has been idle for long.
    pub(crate) fn close_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).retain(|c| c.since.elapsed() < IDLE);
    }
}

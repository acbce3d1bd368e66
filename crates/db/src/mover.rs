//! Moves one organization's tables from one of a service's databases to another. Its requests wait meanwhile; they are
//! refused (`unavailable`, to be repeated) only between two steps that take milliseconds.
//!
//! | Step | Killed right after it |
//! |---|---|
//! | 1. `control.placements` of the first database says where it goes | nothing happened yet; that is taken back |
//! | 2. a transaction here locks its every row and takes them into files | the same |
//! | 3. a transaction there puts them, compares each table's digest, and ends with `arriving` | the copy is dropped |
//! | 4. the first transaction drops what was here, and ends with `moved` | from here on it goes forward: 5, 6, 7 |
//! | 5. `placements` says that it is there | 6 and 7 follow |
//! | 6. there it is what it was here: `active` or `suspended` | 7 follows |
//! | 7. `placements` says that nothing goes anywhere | it has been moved |
//!
//! So at every moment one database has all of it, and what was committed is in that one. Every process of the service brings
//! what a kill left to one end or the other ([`Db::settle_moves`]).

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nitejar_common::error::{Code, Error, Result};
use nitejar_common::id::OrgId;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Postgres, Transaction};

use crate::directory::lock_state;
use crate::migrate::SHARED;
use crate::names::Names;
use crate::{Db, Owner, errors};

/// Whoever still writes makes us try again: nobody queues behind us for longer than a try.
const TRIES: u32 = 20;

/// For how many quarters of a second whoever needs an organization to stay where it is waits.
const STAY_TRIES: u32 = 20;

/// What a move came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Tables whose rows were compared.
    pub tables: usize,
    /// Their rows.
    pub rows: u64,
    /// How long its requests waited.
    pub paused: Duration,
}

/// Where it is, and where it goes.
type Placement = Option<(String, Option<String>)>;

impl Db {
    /// Moves an organization to the database of that name (the first one's is empty); none when it is there.
    pub async fn move_tenant(&self, org: &OrgId, to: &str) -> Result<Option<Moved>> {
        let busy = || {
            Error::new(Code::Conflict, "This organization is being moved, restored or purged at this moment.")
        };
        let _lock = self.lock_move(org).await?.ok_or_else(busy)?;
        self.settle_locked(org).await?;
        let from = self.placement(org).await?.map(|(database, _)| database).unwrap_or_default();
        let (here, there) = (self.named(&from)?, self.named(to)?);
        if from == to {
            return Ok(None);
        }
        self.place_at(org, &from, Some(to)).await?;
        let dir = Files::new(self.0.schema.service, org)?;
        let began = match here.hand_over(there, org, &dir.0).await {
            Ok(done) => done,
            Err(error) => {
                self.settle_locked(org).await?;
                return Err(error);
            }
        };
        self.forward(org, to).await?;
        Ok(Some(Moved { paused: began.2.elapsed(), tables: began.0, rows: began.1 }))
    }

    /// Steps 2 to 4. Answers tables, rows, and since when everybody waits.
    async fn hand_over(&self, there: &Self, org: &OrgId, dir: &Path) -> Result<(usize, u64, Instant)> {
        let mut conn = self.owner().await?;
        let (mut tx, still) = self.stand_still(&mut conn, org).await?;
        let since = Instant::now();
        let manifest = self.write(&mut tx, org, (still.number, still.schema_version), dir).await?;
        let arriving = Some((still.state.as_str(), still.state_version));
        let put = there.put(dir, org, None, "arriving", arriving).await?;
        if let Some((table, rows)) = put.left_out.first() {
            return Err(Error::internal(format!("{rows} rows of {table} are somebody else's there")));
        }
        self.drop_tenant(&mut tx, org, still.number).await?;
        sqlx::query("UPDATE control.tenants SET state = 'moved' WHERE number = $1")
            .bind(still.number)
            .execute(&mut *tx)
            .await
            .map_err(errors::from_sqlx)?;
        tx.commit().await.map_err(errors::from_sqlx)?;
        Ok((put.compared, manifest.tables.iter().map(|t| t.rows).sum(), since))
    }

    /// A transaction in which nobody else changes anything of the organization, here.
    async fn stand_still<'c>(
        &self,
        conn: &'c mut PgConnection,
        org: &OrgId,
    ) -> Result<(Transaction<'c, Postgres>, Still)> {
        let mut tx = conn.begin().await.map_err(errors::from_sqlx)?;
        let mut tries = 0;
        loop {
            tries += 1;
            // Giving a savepoint up gives its locks up.
            let mut attempt = tx.begin().await.map_err(errors::from_sqlx)?;
            match self.lock_all(&mut attempt, org).await {
                Ok(still) => {
                    attempt.commit().await.map_err(errors::from_sqlx)?;
                    return Ok((tx, still));
                }
                Err(error) if error.code() == Code::Aborted && tries < TRIES => {
                    attempt.rollback().await.map_err(errors::from_sqlx)?;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn lock_all(&self, conn: &mut PgConnection, org: &OrgId) -> Result<Still> {
        sqlx::raw_sql("SET LOCAL lock_timeout = '2s'")
            .execute(&mut *conn)
            .await
            .map_err(errors::from_sqlx)?;
        let found: Option<Still> = sqlx::query_as(
            "SELECT number, schema_version, state, state_version FROM control.tenants \
             WHERE org_id = $1 AND state IN ('active', 'suspended') FOR UPDATE",
        )
        .bind(org.as_str())
        .fetch_optional(&mut *conn)
        .await
        .map_err(errors::from_sqlx)?;
        let still = found.ok_or_else(|| Error::not_found(format!("organization {org}")))?;
        self.lock_tables(conn, still.number).await?;
        // Loops change these without a look at the tenant's tables.
        for shared in SHARED.iter().chain(self.0.schema.shared) {
            let column = shared.owner.column();
            let sql = format!("SELECT FROM control.{} WHERE {column} = $1 FOR UPDATE", shared.table);
            let rows = match shared.owner {
                Owner::Number => sqlx::query(AssertSqlSafe(sql)).bind(still.number).execute(&mut *conn).await,
                Owner::Org => sqlx::query(AssertSqlSafe(sql)).bind(org.as_str()).execute(&mut *conn).await,
            };
            rows.map_err(errors::from_sqlx)?;
        }
        Ok(still)
    }

    /// Nobody reads or writes a tenant's tables until the transaction ends. Answers which there are.
    pub(crate) async fn lock_tables(&self, conn: &mut PgConnection, number: i64) -> Result<Vec<String>> {
        let schema = Names::schema(number);
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT quote_ident(c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') ORDER BY 1",
        )
        .bind(&schema)
        .fetch_all(&mut *conn)
        .await
        .map_err(errors::from_sqlx)?;
        let all: Vec<String> = names.iter().map(|name| format!("{schema}.{name}")).collect();
        let sql = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", all.join(", "));
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.map_err(errors::from_sqlx)?;
        Ok(names)
    }

    /// Steps 5 to 7. Each may be repeated.
    async fn forward(&self, org: &OrgId, to: &str) -> Result<()> {
        self.place_at(org, to, Some(to)).await?;
        sqlx::query(
            "UPDATE control.tenants SET state = arriving_as, arriving_as = NULL WHERE org_id = $1 AND state = 'arriving'",
        )
        .bind(org.as_str())
        .execute(&self.named(to)?.0.admin)
        .await
        .map_err(errors::from_sqlx)?;
        self.0.directory.forget(org);
        self.place_at(org, to, None).await
    }

    async fn place_at(&self, org: &OrgId, database: &str, moving_to: Option<&str>) -> Result<()> {
        sqlx::query(
            "INSERT INTO control.placements (org_id, database, moving_to) VALUES ($1, $2, $3) \
             ON CONFLICT (org_id) DO UPDATE SET database = excluded.database, moving_to = excluded.moving_to",
        )
        .bind(org.as_str())
        .bind(database)
        .bind(moving_to)
        .execute(&self.0.admin)
        .await
        .map_err(errors::from_sqlx)?;
        Ok(())
    }

    async fn placement(&self, org: &OrgId) -> Result<Placement> {
        sqlx::query_as("SELECT database, moving_to FROM control.placements WHERE org_id = $1")
            .bind(org.as_str())
            .fetch_optional(&self.0.admin)
            .await
            .map_err(errors::from_sqlx)
    }

    /// Brings every move that was killed to an end: as if it had not begun, or as if it had not been killed.
    pub async fn settle_moves(&self) -> Result<()> {
        if self.0.more.is_empty() {
            return Ok(());
        }
        let moving: Vec<String> =
            sqlx::query_scalar("SELECT org_id FROM control.placements WHERE moving_to IS NOT NULL LIMIT 20")
                .fetch_all(&self.0.control)
                .await
                .map_err(errors::from_sqlx)?;
        for org in moving {
            let org: OrgId = org.parse()?;
            // Whoever moves it is alive.
            let Some(_lock) = self.lock_move(&org).await? else { continue };
            if let Err(error) = self.settle_locked(&org).await {
                tracing::warn!(%org, error = %error.log_text(), "a move is not settled; trying again");
            }
        }
        Ok(())
    }

    /// The same for one organization, which then stays where it is until what is answered is dropped. Unavailable while
    /// somebody moves, restores or purges it.
    pub(crate) async fn stay(&self, org: &OrgId) -> Result<PgConnection> {
        for _ in 0..STAY_TRIES {
            // A server takes a moment to see that its client was killed.
            if let Some(lock) = self.lock_move(org).await? {
                self.settle_locked(org).await?;
                return Ok(lock);
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Err(Error::unavailable().because("it is being moved, restored or purged"))
    }

    async fn settle_locked(&self, org: &OrgId) -> Result<()> {
        let Some((database, Some(to))) = self.placement(org).await? else { return Ok(()) };
        Files::sweep(self.0.schema.service, org)?;
        if database == to {
            return self.forward(org, &to).await;
        }
        // A server may still be at work for a mover that was killed: what it has locked is waited for.
        let mut here = self.named(&database)?.0.admin.begin().await.map_err(errors::from_sqlx)?;
        let state = lock_state(&mut here, org).await?;
        if state.as_deref() == Some("moved") {
            drop(here);
            return self.forward(org, &to).await;
        }
        let there = self.named(&to)?;
        let mut tx = there.0.admin.begin().await.map_err(errors::from_sqlx)?;
        arrival(&mut tx, org).await?;
        let copied: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM control.tenants WHERE org_id = $1 AND state = 'arriving')",
        )
        .bind(org.as_str())
        .fetch_one(&mut *tx)
        .await
        .map_err(errors::from_sqlx)?;
        if copied {
            there.take_away(&mut tx, org).await?;
        }
        tx.commit().await.map_err(errors::from_sqlx)?;
        self.place_at(org, &database, None).await
    }

    /// A connection of the owner's that a server gives up within half a minute when our machine is gone: what it has locked
    /// must not stand still for hours.
    async fn owner(&self) -> Result<PgConnection> {
        let alive =
            [("tcp_keepalives_idle", "10"), ("tcp_keepalives_interval", "5"), ("tcp_keepalives_count", "4")];
        let options = self.0.options.clone().options(alive);
        PgConnection::connect_with(&options).await.map_err(errors::from_sqlx)
    }

    /// Held by whoever moves an organization, until dropped; none while somebody else does.
    async fn lock_move(&self, org: &OrgId) -> Result<Option<PgConnection>> {
        let mut conn = self.owner().await?;
        let got: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended('move|' || $1, 0))")
            .bind(org.as_str())
            .fetch_one(&mut conn)
            .await
            .map_err(errors::from_sqlx)?;
        Ok(got.then_some(conn))
    }
}

/// Of two who put an organization's rows here, or take them away, the second one waits for the first one's end.
pub(crate) async fn arrival(conn: &mut PgConnection, org: &OrgId) -> Result<()> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('arrival|' || $1, 0))")
        .bind(org.as_str())
        .execute(conn)
        .await
        .map_err(errors::from_sqlx)?;
    Ok(())
}

/// The organization as it stands still.
#[derive(sqlx::FromRow)]
struct Still {
    number: i64,
    schema_version: i32,
    state: String,
    state_version: i64,
}

/// Where its rows are on the way; for nobody else's eyes, and gone at the end.
struct Files(PathBuf);

impl Files {
    fn new(service: &str, org: &OrgId) -> Result<Self> {
        Self::sweep(service, org)?;
        let path = Self::path(service, org);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn path(service: &str, org: &OrgId) -> PathBuf {
        std::env::temp_dir().join(format!("nitejar-move-{service}-{org}"))
    }

    /// Of one that was killed: nobody else moves it now.
    fn sweep(service: &str, org: &OrgId) -> Result<()> {
        let path = Self::path(service, org);
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

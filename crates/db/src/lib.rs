//! Tenant isolation in one place: the only road to tenant rows is [`TenantTx`], and the only road to a [`TenantTx`] is a
//! [`nitejar_common::RequestCtx`] that names an organization.
//!
//! ```no_run
//! # async fn example(db: nitejar_db::Db, ctx: nitejar_common::RequestCtx) -> nitejar_common::Result<()> {
//! let mut tx = db.tenant(&ctx).await?; // BEGIN, role and search_path in one round trip
//! // … statements on tx.conn() see this tenant's tables and nothing else …
//! tx.commit().await
//! # }
//! ```
//!
//! | Module | Holds |
//! |---|---|
//! | [`config`] | how a service reaches its database |
//! | `names` | schema, role and login names: made of numbers only |
//! | `bootstrap`, `migrate`, `migrator` | logins, control and tenant migrations, all tenants |
//! | `directory`, `provision` | which organization is which number in which database; spare schemas and claiming them |
//! | `mover` | one organization to another database |
//! | `pool`, `tenant_tx`, `control_tx` | bound connections |
//! | [`outbox`], [`audit`] | what must leave with a change, and does |
//! | [`life`], `purge` | an organization's life here: suspended, and deleted for ever |
//! | [`archive`] | one tenant in files: taken in one snapshot, and put back |
//! | `answers` | what a request with an `Idempotency-Key` is answered again |

mod answers;
pub mod archive;
pub mod audit;
mod bootstrap;
pub mod config;
mod control_tx;
mod directory;
pub mod errors;
mod export;
mod leader;
pub mod life;
mod listen;
mod migrate;
mod migrator;
mod mover;
mod names;
pub mod outbox;
mod pool;
mod provision;
mod purge;
mod tenant_tx;
#[cfg(feature = "testing")]
pub mod testing;

use std::sync::Arc;

use nitejar_common::clock::SharedClock;
use nitejar_common::error::{Error, Result};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Notify;

pub use config::{DatabaseConfig, MigrateMode};
pub use control_tx::ControlTx;
pub use export::Rows;
pub use leader::LeaderGuard;
pub use listen::Listener;
pub use migrate::{Migration, Owner, Schema, SharedTable};
pub use migrator::{Migrated, Progress};
pub use mover::Moved;
pub use purge::PurgedTable;
pub use tenant_tx::TenantTx;

use directory::Directory;
use names::Names;
use pool::Bucket;

/// One service's database, or its databases: this one is the first, and says in which an organization's tables are. Cheap to
/// clone.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    config: DatabaseConfig,
    schema: Schema,
    clock: SharedClock,
    names: Names,
    options: PgConnectOptions,
    control_options: PgConnectOptions,
    /// Owns the schemas: migrations and spares only.
    admin: PgPool,
    control: PgPool,
    buckets: Vec<Arc<Bucket>>,
    directory: Directory,
    outbox_hint: Notify,
    claims: answers::Claims,
    /// This service's other databases, by name. They have none.
    more: Vec<(String, Db)>,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Db({})", self.0.schema.service)
    }
}

impl Db {
    /// Connects, makes what is missing, and migrates or refuses, as configured.
    pub async fn open(config: &DatabaseConfig, schema: Schema, clock: SharedClock) -> Result<Self> {
        let mut more = Vec::new();
        for (name, url) in &config.more {
            more.push((
                name.clone(),
                Self::open_one(&config.of_more(url), schema, clock.clone(), Vec::new()).await?,
            ));
        }
        let db = Self::open_one(config, schema, clock, more).await?;
        db.check_placements().await?;
        Ok(db)
    }

    async fn open_one(
        config: &DatabaseConfig,
        schema: Schema,
        clock: SharedClock,
        more: Vec<(String, Self)>,
    ) -> Result<Self> {
        nitejar_common::error::teach(errors::classify);
        let options = config.options()?;
        let admin = pool::small(options.clone(), 2);
        let names = bootstrap::prepare(&admin, config).await?;
        migrate::control(&admin, &names, &schema, config.migrate).await?;
        let control_options = bootstrap::login(&options, config, &names.control());
        let control = pool::small(control_options.clone(), config.control_connections);
        let limit = usize::try_from(config.max_tenants_per_connection).unwrap_or(usize::MAX);
        let buckets = (0..names.buckets())
            .map(|b| {
                let login = bootstrap::login(&options, config, &names.bucket(b));
                Arc::new(Bucket::new(login, config.bucket_connections, limit))
            })
            .collect();
        let db = Self(Arc::new(Inner {
            config: config.clone(),
            schema,
            clock,
            names,
            options,
            control_options,
            admin,
            control,
            buckets,
            directory: Directory::default(),
            outbox_hint: Notify::new(),
            claims: answers::Claims::default(),
            more,
        }));
        db.check_connections().await?;
        migrator::at_start(&db).await?;
        Ok(db)
    }

    /// This database and all others of the service. What is found in `control` across organizations is looked for in each.
    pub fn parts(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.0.more.iter().map(|(_, db)| db))
    }

    /// Each of [`Db::parts`], and each once more: rows that are being moved from one to another while they are looked for
    /// one after the other are missed by the first round, not by both. Where there is one database once is enough.
    pub fn parts_twice(&self) -> impl Iterator<Item = &Self> {
        let again = if self.0.more.is_empty() { 0 } else { usize::MAX };
        self.parts().chain(self.parts().take(again))
    }

    /// The clock it was opened with.
    pub fn clock(&self) -> &SharedClock {
        &self.0.clock
    }

    /// Whether the database answers: for readiness.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.0.control).await.map_err(errors::from_sqlx)?;
        Ok(())
    }

    /// Wakes the relay in this process: something was committed.
    pub(crate) fn hint_outbox(&self) {
        self.0.outbox_hint.notify_one();
    }

    /// The budget: buckets × connections + control + 2 for the owner + 4 that migrate + 1 that listens + 1 that holds locks. More than the server has is refused at once.
    async fn check_connections(&self) -> Result<()> {
        let config = &self.0.config;
        let buckets = u32::try_from(self.0.buckets.len()).unwrap_or(u32::MAX);
        let need = buckets.saturating_mul(config.bucket_connections) + config.control_connections + 8;
        let have: String = sqlx::query_scalar("SHOW max_connections")
            .fetch_one(&self.0.admin)
            .await
            .map_err(errors::from_sqlx)?;
        let have: u32 = have.parse().unwrap_or(0);
        tracing::info!(
            service = self.0.schema.service,
            "connections: {buckets} buckets x {} + {} control + 2 owner + 4 migrating + 1 listening + 1 locks = at most {need} of the server's {have}",
            config.bucket_connections,
            config.control_connections
        );
        if need > have {
            return Err(Error::internal(format!(
                "this service may open {need} connections but the server allows {have}: lower database.buckets, \
                 database.bucket_connections or database.control_connections, or raise max_connections"
            )));
        }
        Ok(())
    }
}

impl Db {
    /// Closes every connection that is not in use.
    pub async fn close(&self) {
        self.0.admin.close().await;
        self.0.control.close().await;
        self.0.buckets.iter().for_each(|b| b.close_all());
    }
}

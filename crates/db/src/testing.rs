//! Databases for tests: migrated once per schema and cluster, then cloned.

use nitejar_common::clock::{SharedClock, system};
use nitejar_common::secret::Secret;
use nitejar_testkit::postgres::{TestDb, shared};

use crate::{DatabaseConfig, Db, Migration, Schema};

pub mod interleavings;

/// One table of notes for each tenant.
pub const NOTES: Schema = Schema {
    service: "dbtest",
    control: &[],
    shared: &[],
    tenant: &[Migration {
        version: 1,
        name: "notes",
        sql: "CREATE TABLE notes (text text NOT NULL); GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO {role};",
    }],
    private: &[],
};

/// A database of its own with spares ready. Dropped with the value.
#[derive(Debug)]
pub struct TestDatabase {
    /// How to open it.
    pub config: DatabaseConfig,
    /// Keeps it.
    pub handle: TestDb,
}

/// How a test opens a database at a URL.
pub fn config(url: &str) -> DatabaseConfig {
    DatabaseConfig {
        url: Secret::new(url),
        login_secret: Secret::new("a login secret for tests only"),
        buckets: 2,
        bucket_connections: 4,
        control_connections: 4,
        spares: 4,
        ..DatabaseConfig::default()
    }
}

/// A clone of the schema's template, which is built when it is missing.
pub async fn database(schema: Schema) -> anyhow::Result<TestDatabase> {
    let cluster = shared().await?;
    let template = format!("nt_{}_{}", schema.service, schema.fingerprint());
    let build = |url: String| async move {
        let db =
            Db::open(&config(&url), schema, system()).await.map_err(|e| anyhow::anyhow!(e.log_text()))?;
        db.refill_spares().await.map_err(|e| anyhow::anyhow!(e.log_text()))?;
        db.close().await;
        Ok(())
    };
    let handle = cluster.clone_of(&template, build).await?;
    Ok(TestDatabase { config: config(&handle.url), handle })
}

/// The same, opened.
pub async fn open(schema: Schema, clock: SharedClock) -> anyhow::Result<(Db, TestDatabase)> {
    let database = database(schema).await?;
    let db = Db::open(&database.config, schema, clock).await.map_err(|e| anyhow::anyhow!(e.log_text()))?;
    Ok((db, database))
}

impl Db {
    /// How the bucket login of a tenant connects: for attacks on it.
    pub fn testing_bucket_login(&self, number: i64) -> sqlx::postgres::PgConnectOptions {
        let names = &self.0.names;
        crate::bootstrap::login(&self.0.options, &self.0.config, &names.bucket(names.bucket_of(number)))
    }

    /// How the control login connects: for attacks on it.
    pub fn testing_control_login(&self) -> sqlx::postgres::PgConnectOptions {
        crate::bootstrap::login(&self.0.options, &self.0.config, &self.0.names.control())
    }
}

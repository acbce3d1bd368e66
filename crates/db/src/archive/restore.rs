//! Putting a tenant back, from files.

use std::path::Path;
use std::time::Duration;

use futures_util::future::BoxFuture;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::id::OrgId;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::io::AsyncReadExt as _;

use super::living::{keep_outbox, run, see};
use super::others::leave_out;
use super::tables::{self, list};
use super::take::shared_shape;
use super::{Manifest, Table, file_name};
use crate::migrate::{SHARED, apply_tenant};
use crate::mover::arrival;
use crate::names::Names;
use crate::{Db, Owner, SharedTable, errors};

/// Of a restore that somebody got in between of.
const TRIES: u32 = 5;

/// What a service must do when rows are put back.
pub trait Adopt: Send + Sync {
    /// Rows of one organization become another's: what is bound to its id is bound anew. The connection sees the restored
    /// tables.
    fn adopt<'a>(
        &'a self,
        conn: &'a mut PgConnection,
        from: &'a OrgId,
        to: &'a OrgId,
    ) -> BoxFuture<'a, Result<()>>;

    /// Whether an organization's rows are put back over those that it has. A log is not: it would lose its end.
    fn over_the_living(&self) -> bool {
        true
    }

    /// Notes in temporary tables what must not come back with older rows, such as who may no longer enter. The connection
    /// sees the tables that are about to be replaced.
    fn note<'a>(&'a self, _: &'a mut PgConnection, _: &'a OrgId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// Sees to that. The connection sees the restored tables.
    fn keep<'a>(&'a self, _: &'a mut PgConnection, _: &'a OrgId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// Brings an organization's own rows of then up to what holds now, such as the newest master key. The connection sees
    /// them restored.
    fn renew<'a>(&'a self, _: &'a mut PgConnection, _: &'a OrgId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// What became of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The tenant's number now.
    pub number: i64,
    /// Tables whose rows were compared with the archive: each has the digest that it had when it was taken.
    pub compared: usize,
    /// Rows of shared tables that were not put back, because somebody else has what they name: (table, rows).
    pub left_out: Vec<(String, u64)>,
}

impl Db {
    /// Puts an archive back as an organization: one that has nothing here, or one that has, instead of what it has. One
    /// transaction: killed at any line, nothing happened. It is suspended until somebody tells what it is to be. None: what
    /// it has stays ([`Adopt::over_the_living`]).
    pub async fn restore(&self, dir: &Path, org: &OrgId, adopt: &dyn Adopt) -> Result<Option<Restored>> {
        // Nobody moves it meanwhile.
        let _lock = self.stay(org).await?;
        let from: OrgId =
            Manifest::read(dir)?.org_id.parse().map_err(|_| tampered("names no organization"))?;
        let db = self.placed_like(org, &from).await?;
        if from == *org && !adopt.over_the_living() && db.number_here(org).await?.is_some() {
            db.check(dir).await?;
            return Ok(None);
        }
        let others = self.parts().filter(|part| !part.is(db)).collect::<Vec<_>>();
        // It is busy: what was under way ends, since it is suspended.
        let mut tries = 0;
        let restored = loop {
            match db.put(dir, org, Some((adopt, &others)), "suspended", None).await {
                Err(error) if error.code() == Code::Aborted && tries < TRIES => tries += 1,
                other => break other?,
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        self.0.directory.forget(org);
        Ok(Some(restored))
    }

    /// The same in this very database, as what the directory is to call it: `arriving_as` is its state and the count of
    /// that, where it comes from another database.
    pub(crate) async fn put(
        &self,
        dir: &Path,
        org: &OrgId,
        adopt: Option<(&dyn Adopt, &[&Self])>,
        state: &str,
        arriving_as: Option<(&str, i64)>,
    ) -> Result<Restored> {
        let manifest = self.check(dir).await?;
        let from: OrgId = manifest.org_id.parse().map_err(|_| tampered("names no organization"))?;
        let mut conn = PgConnection::connect_with(&self.0.options).await.map_err(errors::from_sqlx)?;
        let mut tx = conn.begin().await.map_err(errors::from_sqlx)?;
        arrival(&mut tx, org).await?;
        let living = match adopt {
            Some((adopt, _)) if from == *org => self.note_living(&mut tx, org, adopt).await?,
            _ => false,
        };
        self.take_away(&mut tx, org).await?;
        let number: i64 = sqlx::query_scalar(
            "INSERT INTO control.tenants (state, schema_version) VALUES ('building', 0) RETURNING number",
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(errors::from_sqlx)?;
        self.create_schema(&mut tx, number).await?;
        let names = &self.0.names;
        apply_tenant(&mut tx, names, &self.0.schema, number, None, manifest.schema_version).await?;
        self.fill(&mut tx, dir, &manifest, number).await?;
        let compared = self.compare(&mut tx, &manifest, number).await?;
        if manifest.schema_version < self.0.schema.tenant_version() {
            let version = Some(manifest.schema_version);
            apply_tenant(&mut tx, names, &self.0.schema, number, version, i32::MAX).await?;
        }
        // The row becomes the organization's before its shared rows: they refer to it.
        sqlx::query(
            "UPDATE control.tenants SET org_id = $2, state = $5, schema_version = $3, claimed_at = $4, arriving_as = $6, \
             state_version = $7 WHERE number = $1",
        )
        .bind(number)
        .bind(org.as_str())
        .bind(self.0.schema.tenant_version())
        .bind(self.0.clock.now())
        .bind(state)
        .bind(arriving_as.map(|(state, _)| state))
        .bind(arriving_as.map_or(0, |(_, version)| version))
        .execute(&mut *tx)
        .await
        .map_err(errors::from_sqlx)?;
        let mut left_out = Vec::new();
        for shared in SHARED.iter().chain(self.0.schema.shared) {
            let rows = fill_shared(&mut tx, dir, &manifest, shared, number).await?;
            if rows > 0 {
                left_out.push((format!("control.{}", shared.table), rows));
            }
        }
        if let Some((adopt, others)) = adopt {
            for other in others {
                for (table, rows) in leave_out(&mut tx, other, self.0.schema.shared, org, number).await? {
                    left_out.push((format!("control.{table}"), rows));
                }
            }
            see(&mut tx, number).await?;
            if from != *org {
                // What was on its way named the other one; it has left, or it was taken while it had not.
                run(&mut tx, "DELETE FROM outbox").await?;
                adopt.adopt(&mut tx, &from, org).await?;
            } else {
                if living {
                    keep_outbox(&mut tx, number).await?;
                    adopt.keep(&mut tx, org).await?;
                }
                adopt.renew(&mut tx, org).await?;
            }
        }
        tx.commit().await.map_err(errors::from_sqlx)?;
        Ok(Restored { number, compared, left_out })
    }

    /// The manifest, whose files are what it says, and of this service.
    pub async fn check(&self, dir: &Path) -> Result<Manifest> {
        let manifest = Manifest::read(dir)?;
        if manifest.service != self.0.schema.service {
            return Err(tampered(&format!("is of the service {}", manifest.service)));
        }
        if !(1..=self.0.schema.tenant_version()).contains(&manifest.schema_version) {
            let detail = format!(
                "has tables of version {}, which this program does not know",
                manifest.schema_version
            );
            return Err(tampered(&detail));
        }
        for table in &manifest.tables {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.';
            if !table.name.bytes().all(plain) || table.name.contains("..") {
                return Err(tampered("names a table that is none"));
            }
            let mut file = tokio::fs::File::open(dir.join(file_name(&table.name)))
                .await
                .map_err(|e| tampered(&format!("lacks {}: {e}", table.name)))?;
            let (mut digest, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
            loop {
                let read = file.read(&mut buffer).await?;
                if read == 0 {
                    break;
                }
                digest.update(&buffer[..read]);
            }
            if hex::encode(digest.finalize()) != table.sha256 {
                return Err(tampered(&format!("holds another {} than its manifest tells", table.name)));
            }
        }
        Ok(manifest)
    }

    /// What the organization has here goes, in the same transaction.
    pub(crate) async fn take_away(&self, conn: &mut PgConnection, org: &OrgId) -> Result<()> {
        sqlx::raw_sql("SET LOCAL lock_timeout = '5s'")
            .execute(&mut *conn)
            .await
            .map_err(errors::from_sqlx)?;
        let found: Option<(i64, String)> =
            sqlx::query_as("SELECT number, state FROM control.tenants WHERE org_id = $1 FOR UPDATE")
                .bind(org.as_str())
                .fetch_optional(&mut *conn)
                .await
                .map_err(errors::from_sqlx)?;
        let Some((number, state)) = found else { return Ok(()) };
        if state == "purged" {
            let detail =
                "This organization was purged, and its id is never used again. Restore it as another one.";
            return Err(Error::new(Code::Conflict, detail));
        }
        if state != "moved" {
            self.drop_tenant(conn, org, number).await?;
        }
        sqlx::query("DELETE FROM control.tenants WHERE number = $1")
            .bind(number)
            .execute(conn)
            .await
            .map_err(errors::from_sqlx)?;
        Ok(())
    }

    /// Copies the tenant's own tables in, and sets what counts on.
    async fn fill(
        &self,
        conn: &mut PgConnection,
        dir: &Path,
        manifest: &Manifest,
        number: i64,
    ) -> Result<()> {
        let schema = Names::schema(number);
        let shapes = tables::of_schema(conn, &schema).await?;
        let own = manifest.tables.iter().filter(|t| !t.name.starts_with("control."));
        if own.clone().any(|t| !shapes.iter().any(|s| s.name == t.name)) {
            return Err(tampered("holds a table that there is none of"));
        }
        // A schema's first rows, such as a subscription, are of before.
        for shape in shapes.iter().rev() {
            let sql = format!("DELETE FROM {schema}.{}", shape.name);
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await.map_err(errors::from_sqlx)?;
        }
        for shape in &shapes {
            let Some(table) = own.clone().find(|t| t.name == shape.name) else {
                return Err(tampered(&format!("lacks the table {}", shape.name)));
            };
            if table.columns != shape.columns {
                return Err(tampered(&format!("has other columns of {} than there are", shape.name)));
            }
            let into = format!("{schema}.{} ({})", shape.name, list(&shape.columns));
            copy_in(conn, dir, table, &into).await?;
        }
        let counters: Vec<(String, String)> = sqlx::query_as(
            "SELECT c.relname::text, a.attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
             WHERE c.relnamespace = $1::regnamespace AND c.relkind = 'r' AND a.attidentity <> ''",
        )
        .bind(&schema)
        .fetch_all(&mut *conn)
        .await
        .map_err(errors::from_sqlx)?;
        for (table, column) in counters {
            let sql = format!(
                "SELECT setval(pg_get_serial_sequence('{schema}.{table}', '{column}'), \
                 coalesce(max(\"{column}\"), 0) + 1, false) FROM {schema}.{table}"
            );
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await.map_err(errors::from_sqlx)?;
        }
        Ok(())
    }

    /// What stands there now is what was taken, row by row.
    async fn compare(&self, conn: &mut PgConnection, manifest: &Manifest, number: i64) -> Result<usize> {
        let now = self.digest(conn, number, None).await?;
        let own: Vec<&Table> = now.iter().filter(|t| !t.name.starts_with("control.")).collect();
        for table in &own {
            let same = |taken: &Table| {
                (&taken.name, &taken.columns, taken.rows, &taken.sha256)
                    == (&table.name, &table.columns, table.rows, &table.sha256)
            };
            if !manifest.tables.iter().any(same) {
                return Err(Error::internal(format!("{} was not restored as it was taken", table.name)));
            }
        }
        Ok(own.len())
    }
}

fn tampered(how: &str) -> Error {
    Error::invalid("/archive", format!("must be whole and unchanged; this one {how}"))
}

async fn copy_in(conn: &mut PgConnection, dir: &Path, table: &Table, into: &str) -> Result<()> {
    let file = tokio::fs::File::open(dir.join(file_name(&table.name))).await?;
    let mut copy = conn.copy_in_raw(&format!("COPY {into} FROM STDIN")).await.map_err(errors::from_sqlx)?;
    if let Err(error) = copy.read_from(file).await {
        let _ = copy.abort("the file can't be read").await;
        return Err(errors::from_sqlx(error));
    }
    copy.finish().await.map_err(|e| tampered("holds rows that do not fit").because(e))?;
    Ok(())
}

/// Puts the tenant's rows of a shared table back; answers how many somebody else is in the way of.
async fn fill_shared(
    conn: &mut PgConnection,
    dir: &Path,
    manifest: &Manifest,
    shared: &SharedTable,
    number: i64,
) -> Result<u64> {
    let name = format!("control.{}", shared.table);
    let Some(table) = manifest.tables.iter().find(|t| t.name == name) else { return Ok(0) };
    let shape = shared_shape(conn, shared).await?;
    // One that was taken before a column was added has its default.
    if let Some(unknown) = table.columns.iter().find(|c| !shape.columns.contains(c)) {
        return Err(tampered(&format!("has a column {unknown} of {name}, which there is not")));
    }
    let columns = list(&table.columns);
    // Some say it in both ways.
    let owners: Vec<String> = sqlx::query_scalar(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = ('control.' || $1)::regclass \
         AND attname IN ('org_id', 'tenant_number') AND NOT attisdropped ORDER BY 1",
    )
    .bind(shared.table)
    .fetch_all(&mut *conn)
    .await
    .map_err(errors::from_sqlx)?;
    let whose: Vec<&str> =
        owners.iter().map(|o| if o == "org_id" { "t.org_id" } else { "t.number" }).collect();
    let (owners, whose) = (owners.join(", "), whose.join(", "));
    // What the database made by itself, such as a row for each new organization, is of now.
    let sql = format!(
        "DELETE FROM control.{} s USING control.tenants t WHERE t.number = $1 AND s.{} = t.{}",
        shared.table,
        shared.owner.column(),
        if shared.owner == Owner::Org { "org_id" } else { "number" },
    );
    sqlx::query(AssertSqlSafe(sql)).bind(number).execute(&mut *conn).await.map_err(errors::from_sqlx)?;
    let sql = format!(
        "CREATE TEMPORARY TABLE restoring ON COMMIT DROP AS SELECT {columns} FROM control.{} WITH NO DATA",
        shared.table
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *conn).await.map_err(errors::from_sqlx)?;
    copy_in(conn, dir, table, &format!("pg_temp.restoring ({columns})")).await?;
    let sql = format!(
        "INSERT INTO control.{} ({owners}, {columns}) SELECT {whose}, r.* FROM pg_temp.restoring r, control.tenants t \
         WHERE t.number = $1 ON CONFLICT DO NOTHING",
        shared.table
    );
    let done =
        sqlx::query(AssertSqlSafe(sql)).bind(number).execute(&mut *conn).await.map_err(errors::from_sqlx)?;
    sqlx::raw_sql("DROP TABLE pg_temp.restoring").execute(conn).await.map_err(errors::from_sqlx)?;
    Ok(table.rows - done.rows_affected())
}

//! Taking a tenant out into files.

use std::path::Path;

use futures_util::TryStreamExt as _;
use nitejar_common::error::{Error, Result};
use nitejar_common::id::OrgId;
use sha2::{Digest as _, Sha256};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::io::AsyncWriteExt as _;

use super::tables::{self, Shape, list, ordered};
use super::{FORMAT, Manifest, Table, file_name};
use crate::migrate::SHARED;
use crate::names::Names;
use crate::{Db, SharedTable, errors};

impl Db {
    /// Takes an organization's tables into an empty folder, in one snapshot, while it goes on.
    pub async fn take(&self, org: &OrgId, dir: &Path) -> Result<Manifest> {
        let db = self.home_of(org).await?;
        let mut conn = PgConnection::connect_with(&db.0.options).await.map_err(errors::from_sqlx)?;
        let mut tx = conn
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await
            .map_err(errors::from_sqlx)?;
        let found: Option<(i64, i32)> = sqlx::query_as(
            "SELECT number, schema_version FROM control.tenants WHERE org_id = $1 AND state IN ('active', 'suspended')",
        )
        .bind(org.as_str())
        .fetch_optional(&mut *tx)
        .await
        .map_err(errors::from_sqlx)?;
        let (number, schema_version) =
            found.ok_or_else(|| Error::not_found(format!("organization {org}")))?;
        db.write(&mut tx, org, (number, schema_version), dir).await
    }

    /// Writes what a transaction sees into an empty folder.
    pub(crate) async fn write(
        &self,
        conn: &mut PgConnection,
        org: &OrgId,
        (number, schema_version): (i64, i32),
        dir: &Path,
    ) -> Result<Manifest> {
        let tables = self.digest(conn, number, Some(dir)).await?;
        let manifest = Manifest {
            format: FORMAT,
            service: self.0.schema.service.to_owned(),
            org_id: org.to_string(),
            schema_version,
            taken_at: self.0.clock.now(),
            tables,
        };
        // Written beside and renamed: half a manifest is none.
        let (path, part) = (dir.join("manifest.json"), dir.join("manifest.part"));
        tokio::fs::write(&part, serde_json::to_string_pretty(&manifest)?).await?;
        tokio::fs::rename(part, path).await?;
        Ok(manifest)
    }

    /// Every table of a tenant with its digests; written into a folder as well, if there is one.
    pub(super) async fn digest(
        &self,
        conn: &mut PgConnection,
        number: i64,
        dir: Option<&Path>,
    ) -> Result<Vec<Table>> {
        let schema = Names::schema(number);
        // What a value looks like as text must not depend on how a database or a login is set.
        sqlx::raw_sql(
            "SET LOCAL bytea_output = 'hex'; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'; \
             SET LOCAL intervalstyle = 'postgres'; SET LOCAL extra_float_digits = 1",
        )
        .execute(&mut *conn)
        .await
        .map_err(errors::from_sqlx)?;
        let mut all = Vec::new();
        for shape in tables::of_schema(conn, &schema).await? {
            let name = shape.name.clone();
            let rows = format!("{schema}.{name}");
            let sql = |columns: &[String]| {
                format!("SELECT {} FROM {rows} ORDER BY {}", list(columns), ordered(&shape))
            };
            let mut table = copy_out(conn, &name, &shape.columns, &sql(&shape.columns), dir).await?;
            let private = |column: &String| self.0.schema.private.contains(&(name.as_str(), column.as_str()));
            table.portable_sha256 = if name == "outbox" {
                String::new() // What is on its way is nobody's data yet.
            } else if shape.columns.iter().any(private) {
                let open: Vec<String> = shape.columns.iter().filter(|c| !private(c)).cloned().collect();
                copy_out(conn, &name, &open, &sql(&open), None).await?.sha256
            } else {
                table.sha256.clone()
            };
            all.push(table);
        }
        for shared in SHARED.iter().chain(self.0.schema.shared) {
            all.push(copy_shared(conn, shared, number, dir).await?);
        }
        Ok(all)
    }
}

/// The rows of a tenant in a shared table, without whose they are.
async fn copy_shared(
    conn: &mut PgConnection,
    shared: &SharedTable,
    number: i64,
    dir: Option<&Path>,
) -> Result<Table> {
    let shape = shared_shape(conn, shared).await?;
    let columns = list(&shape.columns);
    let (table, owner) = (shared.table, shared.owner.column());
    let directory = if owner == "org_id" { "org_id" } else { "number" };
    let sql = format!(
        "SELECT {columns} FROM (SELECT s.* FROM control.{table} s JOIN control.tenants t ON t.{directory} = s.{owner} \
         WHERE t.number = {number}) own ORDER BY {}",
        ordered(&shape)
    );
    copy_out(conn, &format!("control.{table}"), &shape.columns, &sql, dir).await
}

/// A shared table without whose its rows are, and without numbers that are given anew.
pub(super) async fn shared_shape(conn: &mut PgConnection, shared: &SharedTable) -> Result<Shape> {
    let columns: Vec<String> = sqlx::query_scalar(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = ('control.' || $1)::regclass AND attnum > 0 \
         AND NOT attisdropped AND attidentity = '' AND attname NOT IN ('org_id', 'tenant_number') ORDER BY attnum",
    )
    .bind(shared.table)
    .fetch_all(conn)
    .await
    .map_err(errors::from_sqlx)?;
    Ok(Shape { name: shared.table.to_owned(), key: columns.clone(), columns })
}

/// Copies what a query yields into a file, or nowhere, and digests it on the way.
async fn copy_out(
    conn: &mut PgConnection,
    name: &str,
    columns: &[String],
    query: &str,
    dir: Option<&Path>,
) -> Result<Table> {
    let mut file = match dir {
        Some(dir) => Some(tokio::fs::File::create(dir.join(file_name(name))).await?),
        None => None,
    };
    let (mut digest, mut rows) = (Sha256::new(), 0);
    let mut out = conn.copy_out_raw(&format!("COPY ({query}) TO STDOUT")).await.map_err(errors::from_sqlx)?;
    while let Some(bytes) = out.try_next().await.map_err(errors::from_sqlx)? {
        digest.update(&bytes);
        // A newline within a value is written as two characters.
        rows += bytes.iter().filter(|b| **b == b'\n').count() as u64;
        if let Some(file) = &mut file {
            file.write_all(&bytes).await?;
        }
    }
    drop(out);
    if let Some(mut file) = file {
        file.flush().await?;
        file.sync_all().await?;
    }
    Ok(Table {
        name: name.to_owned(),
        columns: columns.to_vec(),
        rows,
        sha256: hex::encode(digest.finalize()),
        portable_sha256: String::new(),
    })
}

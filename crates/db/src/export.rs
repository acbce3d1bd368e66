//! A tenant's rows as JSON Lines, read with the tenant's own role: what is not its own can't be among them.

use futures_util::TryStreamExt as _;
use nitejar_common::RequestCtx;
use nitejar_common::error::Result;
use sqlx::{AssertSqlSafe, Row as _};
use tokio::sync::mpsc::Sender;

use crate::{Db, errors};

/// Lines are passed on in portions of about this many bytes.
const PORTION: usize = 512 << 10;

/// Not the organization's data, but what is on its way, or exports themselves.
const INTERNAL: [&str; 3] = ["outbox", "exports", "export_parts"];

/// Some rows of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The table.
    pub table: String,
    /// Whole lines.
    pub lines: Vec<u8>,
    /// How many.
    pub rows: u64,
}

impl Db {
    /// Sends every table's rows, of one snapshot, each table by its primary key. Ends early when nobody receives.
    pub async fn export(&self, ctx: &RequestCtx, to: &Sender<Rows>) -> Result<()> {
        let mut tx = self.tenant_read(ctx).await?;
        // Whoever reads slowly is not cut off in the middle of a large table.
        sqlx::raw_sql("SET LOCAL statement_timeout = '240s'")
            .execute(tx.conn())
            .await
            .map_err(errors::from_sqlx)?;
        let tables: Vec<(String, Option<String>)> = sqlx::query_as(
            "SELECT c.relname::text, (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY array_position(i.indkey::int2[], a.attnum)) \
                FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey) \
                WHERE i.indrelid = c.oid AND i.indisprimary) \
             FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' \
             AND c.relname <> ALL ($1) ORDER BY 1",
        )
        .bind(INTERNAL)
        .fetch_all(tx.conn())
        .await
        .map_err(errors::from_sqlx)?;
        for (table, key) in tables {
            let private: Vec<&str> = self
                .0
                .schema
                .private
                .iter()
                .filter(|(t, _)| *t == table)
                .map(|(_, column)| *column)
                .collect();
            let order = key.unwrap_or_else(|| "1".into());
            // The names come from the catalogue of our own schema.
            let sql = format!("SELECT (to_jsonb(t) - $1::text[])::text FROM \"{table}\" t ORDER BY {order}");
            let mut found = sqlx::query(AssertSqlSafe(sql)).bind(private).fetch(tx.conn());
            let (mut lines, mut rows, mut sent) = (Vec::new(), 0, false);
            loop {
                let row = found.try_next().await.map_err(errors::from_sqlx)?;
                if let Some(row) = &row {
                    let line: String = row.try_get(0).map_err(errors::from_sqlx)?;
                    lines.extend_from_slice(line.as_bytes());
                    lines.push(b'\n');
                    rows += 1;
                }
                let last = row.is_none();
                if lines.len() >= PORTION || (last && (rows > 0 || !sent)) {
                    let portion = Rows { table: table.clone(), lines: std::mem::take(&mut lines), rows };
                    if to.send(portion).await.is_err() {
                        return Ok(());
                    }
                    (rows, sent) = (0, true);
                }
                if last {
                    break;
                }
            }
        }
        tx.commit().await
    }
}

//! What tables a tenant has, and in which order.

use nitejar_common::error::{Error, Result};
use sqlx::PgConnection;

use crate::errors;

/// A table of a schema.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) name: String,
    /// In their order.
    pub(super) columns: Vec<String>,
    /// The primary key's columns; all, where there is none.
    pub(super) key: Vec<String>,
}

/// The tables of a schema, each after those that it refers to.
pub(super) async fn of_schema(conn: &mut PgConnection, schema: &str) -> Result<Vec<Shape>> {
    let found: Vec<(String, Vec<String>, Option<Vec<String>>)> = sqlx::query_as(
        "SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attnum), \
            (SELECT array_agg(k.attname::text ORDER BY array_position(i.indkey::int2[], k.attnum)) FROM pg_index i \
             JOIN pg_attribute k ON k.attrelid = c.oid AND k.attnum = ANY (i.indkey) \
             WHERE i.indrelid = c.oid AND i.indisprimary) \
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
            AND a.attgenerated = '' \
         WHERE c.relnamespace = $1::regnamespace AND c.relkind = 'r' GROUP BY c.oid, c.relname ORDER BY 1",
    )
    .bind(schema)
    .fetch_all(&mut *conn)
    .await
    .map_err(errors::from_sqlx)?;
    let refers: Vec<(String, String)> = sqlx::query_as(
        "SELECT f.relname::text, t.relname::text FROM pg_constraint k JOIN pg_class f ON f.oid = k.conrelid \
         JOIN pg_class t ON t.oid = k.confrelid WHERE k.contype = 'f' AND f.relnamespace = $1::regnamespace AND f.oid <> t.oid",
    )
    .bind(schema)
    .fetch_all(conn)
    .await
    .map_err(errors::from_sqlx)?;
    let mut left: Vec<Shape> = found
        .into_iter()
        .map(|(name, columns, key)| Shape { key: key.unwrap_or_else(|| columns.clone()), name, columns })
        .collect();
    let mut ordered: Vec<Shape> = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let free = left.iter().position(|shape| {
            let mut needs = refers.iter().filter(|(from, _)| *from == shape.name);
            needs.all(|(_, to)| ordered.iter().any(|done| done.name == *to))
        });
        let free = free
            .ok_or_else(|| Error::internal(format!("tables of {schema} refer to each other in a circle")))?;
        ordered.push(left.remove(free));
    }
    Ok(ordered)
}

/// A key's columns to sort by: as text by its bytes, for collations differ between databases.
pub(super) fn ordered(shape: &Shape) -> String {
    let by: Vec<String> =
        shape.key.iter().map(|c| format!("\"{}\"::text COLLATE \"C\"", c.replace('"', "\"\""))).collect();
    by.join(", ")
}

/// Column names as a list of SQL. They come from the catalogue of our own schemas.
pub(super) fn list(columns: &[String]) -> String {
    let quoted: Vec<String> = columns.iter().map(|c| format!("\"{}\"", c.replace('"', "\"\""))).collect();
    quoted.join(", ")
}

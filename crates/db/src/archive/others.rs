//! What only one organization may have, where a service has several databases.

use nitejar_common::error::Result;
use nitejar_common::id::OrgId;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::{Db, Owner, SharedTable, errors};

/// Rows of shared tables name things that one organization only may have: what another one has in `other`, another database
/// of the service, goes from here. One database alone refuses that by its own keys. Answers (table, rows).
pub(super) async fn leave_out(
    conn: &mut PgConnection,
    other: &Db,
    shared: &[SharedTable],
    org: &OrgId,
    number: i64,
) -> Result<Vec<(&'static str, u64)>> {
    let mut left_out = Vec::new();
    for table in shared {
        // Keys that tell organizations apart can't meet.
        let keys: Vec<Vec<String>> = sqlx::query_scalar(
            "SELECT array_agg(quote_ident(a.attname)) FROM pg_index i JOIN pg_attribute a \
               ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) \
             WHERE i.indrelid = ('control.' || $1)::regclass AND i.indisunique AND i.indpred IS NULL GROUP BY i.indexrelid \
             HAVING NOT bool_or(a.attname IN ('org_id', 'tenant_number') OR a.attidentity <> '')",
        )
        .bind(table.table)
        .fetch_all(&mut *conn)
        .await
        .map_err(errors::from_sqlx)?;
        let (name, owner) = (table.table, table.owner.column());
        for key in keys {
            let columns = key.join(", ");
            let same: Vec<String> = key.iter().map(|c| format!("t.{c} = r.{c}")).collect();
            let same = same.join(" AND ");
            let mine = format!(
                "SELECT coalesce(jsonb_agg(to_jsonb(k)), '[]') FROM (SELECT {columns} FROM control.{name} t \
                 WHERE t.{owner}::text = $1) k"
            );
            let whose = if table.owner == Owner::Org { org.to_string() } else { number.to_string() };
            let mine: serde_json::Value = sqlx::query_scalar(AssertSqlSafe(mine))
                .bind(&whose)
                .fetch_one(&mut *conn)
                .await
                .map_err(errors::from_sqlx)?;
            let theirs = format!(
                "SELECT coalesce(jsonb_agg(to_jsonb(k)), '[]') FROM (SELECT {} FROM control.{name} t \
                 JOIN jsonb_populate_recordset(NULL::control.{name}, $1) r ON {same}) k",
                key.iter().map(|c| format!("t.{c}")).collect::<Vec<_>>().join(", ")
            );
            let theirs: serde_json::Value = sqlx::query_scalar(AssertSqlSafe(theirs))
                .bind(mine)
                .fetch_one(&other.0.admin)
                .await
                .map_err(errors::from_sqlx)?;
            let gone = format!(
                "DELETE FROM control.{name} t USING jsonb_populate_recordset(NULL::control.{name}, $1) r \
                 WHERE {same} AND t.{owner}::text = $2"
            );
            let gone = sqlx::query(AssertSqlSafe(gone)).bind(theirs).bind(&whose).execute(&mut *conn).await;
            let rows = gone.map_err(errors::from_sqlx)?.rows_affected();
            if rows > 0 {
                left_out.push((name, rows));
            }
        }
    }
    Ok(left_out)
}

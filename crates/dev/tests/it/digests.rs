//! An organization's rows in the databases, table by table, as digests: what changed is seen, whatever the API shows of it.

use std::collections::BTreeMap;

use nitejar_db::testing::TestDatabase;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// The services that keep tenants' data.
pub(crate) const SERVICES: [&str; 4] = ["tenancy", "sprites", "billing", "audit"];

/// Which rows of a table count. Whoever asks makes API calls, which are counted: no attack can be told from that.
fn counting(service: &str, table: &str) -> &'static str {
    match (service, table) {
        ("billing", "meters" | "ledger") => "meter <> 'api_calls'",
        ("billing", "api_leases" | "control.expiry_due") => "false",
        _ => "true",
    }
}

/// One organization's rows, and how to read them again.
pub(crate) struct Rows(Vec<Of>);

struct Of {
    service: &'static str,
    db: PgConnection,
    digests: String,
    waiting: String,
}

impl Rows {
    pub(crate) async fn of(databases: &BTreeMap<&'static str, TestDatabase>, org: &str) -> Self {
        let mut all = Vec::new();
        for service in SERVICES {
            let mut db = PgConnection::connect(&databases[service].handle.url).await.unwrap();
            let number = number(&mut db, org).await;
            // Its own tables, and its rows of those that all share. Messages on their way are no state.
            let tables: Vec<(String, String)> = sqlx::query_as(
                "SELECT relname::text, 'true' FROM pg_class \
                 WHERE relnamespace = ('t_' || $1)::regnamespace AND relkind = 'r' AND relname <> 'outbox' \
                 UNION ALL SELECT 'control.' || c.relname, 'r.org_id = ''' || $2 || '''' FROM pg_class c \
                 JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'org_id' \
                 WHERE c.relnamespace = 'control'::regnamespace AND c.relkind = 'r' AND c.relname <> 'outbox'",
            )
            .bind(number.to_string())
            .bind(org)
            .fetch_all(&mut db)
            .await
            .unwrap();
            let select = |(table, its): &(String, String)| {
                let from = if table.contains('.') { table.clone() } else { format!("t_{number}.{table}") };
                // When something was used last, and when a runner asked for work last, is written down by those who do.
                let row = "(to_jsonb(r) - 'last_used_at' - 'asked_at')::text";
                format!(
                    "SELECT '{table}', md5(coalesce(string_agg({row}, chr(10) ORDER BY {row}), '')) FROM {from} r \
                     WHERE {its} AND {}",
                    counting(service, table)
                )
            };
            let digests = tables.iter().map(select).collect::<Vec<_>>().join(" UNION ALL ");
            let waiting = match service {
                "audit" => "SELECT 0::bigint".to_owned(),
                _ => format!("SELECT count(*) FROM t_{number}.outbox"),
            };
            all.push(Of { service, db, digests, waiting });
        }
        Self(all)
    }

    /// `service table` → digest.
    pub(crate) async fn digests(&mut self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for of in &mut self.0 {
            let found: Vec<(String, String)> =
                sqlx::query_as(AssertSqlSafe(of.digests.clone())).fetch_all(&mut of.db).await.unwrap();
            all.extend(found.into_iter().map(|(table, digest)| (format!("{} {table}", of.service), digest)));
        }
        all
    }

    /// Waits until what the organization's services have to tell others has arrived.
    pub(crate) async fn quiet(&mut self) {
        for of in &mut self.0 {
            for _ in 0..400 {
                let left: i64 = sqlx::query_scalar(AssertSqlSafe(of.waiting.clone()))
                    .fetch_one(&mut of.db)
                    .await
                    .unwrap();
                if left == 0 {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(25)).await;
            }
        }
    }
}

/// An organization's number in a service's database.
pub(crate) async fn number(db: &mut PgConnection, org: &str) -> i64 {
    sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
        .bind(org)
        .fetch_one(db)
        .await
        .unwrap()
}

/// The names of what differs.
pub(crate) fn differing(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let names = before.keys().chain(after.keys()).collect::<std::collections::BTreeSet<_>>();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

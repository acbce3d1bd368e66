//! What can be tried with a service's own logins, should somebody get hold of one.

use nitejar_dev::test_stack::TestStack;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection};

use super::report::Report;
use super::{Attackers, Victim};

const SCHEMAS: [(&str, nitejar_db::Schema); 4] = [
    ("tenancy", nitejar_tenancy::SCHEMA),
    ("sprites", nitejar_sprites::SCHEMA),
    ("billing", nitejar_billing::SCHEMA),
    ("audit", nitejar_audit::SCHEMA),
];

async fn number(raw: &mut PgConnection, org: &str) -> i64 {
    sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1")
        .bind(org)
        .fetch_one(raw)
        .await
        .unwrap()
}

/// Each service × each of its logins, bound and unbound.
pub(super) async fn logins(stack: &TestStack, victim: &Victim, attackers: &Attackers, report: &mut Report) {
    for (service, schema) in SCHEMAS {
        let mut raw = stack.database(service).await.unwrap();
        let theirs = number(&mut raw, &victim.world.org).await;
        let own = number(&mut raw, &attackers.org).await;
        let prefix: String =
            sqlx::query_scalar("SELECT role_prefix FROM control.meta").fetch_one(&mut raw).await.unwrap();
        let table: String = sqlx::query_scalar(
            "SELECT relname::text FROM pg_class WHERE relnamespace = ('t_' || $1)::regnamespace AND relkind = 'r' \
             AND relname <> 'outbox' ORDER BY 1 LIMIT 1",
        )
        .bind(theirs.to_string())
        .fetch_one(&mut raw)
        .await
        .unwrap();
        let config = nitejar_db::testing::config(&stack.databases[service].handle.url);
        let db = nitejar_db::Db::open(&config, schema, nitejar_common::clock::system()).await.unwrap();
        let bucket = db.testing_bucket_login(own);
        let same_bucket = same_login(&bucket, &db.testing_bucket_login(theirs));
        let reads = [
            format!("SELECT * FROM t_{theirs}.{table}"),
            format!("SET search_path = t_{theirs}; SELECT * FROM {table}"),
            format!("DELETE FROM t_{theirs}.{table}"),
            format!("DROP SCHEMA t_{theirs} CASCADE"),
            format!("COPY t_{theirs}.{table} TO STDOUT"),
            "SELECT * FROM pg_authid".to_owned(),
            format!("CREATE TABLE t_{theirs}.mine (x int)"),
        ];
        let bound = format!("SET ROLE \"{prefix}_t{own}\"; ");
        let control = db.testing_control_login();
        for (who, login, before) in [
            ("bucket login, unbound", &bucket, String::new()),
            ("bucket login, bound to the attacker", &bucket, bound.clone()),
            ("control login", &control, String::new()),
        ] {
            for attack in &reads {
                let refused = attempt(login, &format!("{before}{attack}")).await;
                report.row(
                    "A service's own database login",
                    service,
                    who,
                    attack.replace(&theirs.to_string(), "N"),
                    refused.is_some(),
                    refused.unwrap_or_default(),
                );
            }
        }
        // What is shared: a bound tenant reads none of it, but through functions that take the tenant from its role.
        let shared: Vec<String> = sqlx::query_scalar("SELECT relname::text FROM pg_class WHERE relnamespace = 'control'::regnamespace AND relkind = 'r'")
            .fetch_all(&mut raw)
            .await
            .unwrap();
        for table in shared {
            let refused = attempt(&bucket, &format!("{bound}SELECT * FROM control.{table}")).await;
            report.row(
                "A service's own database login",
                service,
                "bucket login, bound to the attacker",
                format!("SELECT * FROM control.{table}"),
                refused.is_some(),
                refused.unwrap_or_default(),
            );
        }
        // A login is a member of its own bucket's roles only. Within one bucket a role is a wall against mistakes, and what
        // stands against injected SQL is that there is none: see docs/SECURITY.md.
        let refused = attempt(
            &bucket,
            &format!("SET ROLE \"{prefix}_t{theirs}\"; SELECT * FROM t_{theirs}.{table_}", table_ = "outbox"),
        )
        .await;
        let held = refused.is_some() || same_bucket;
        let told =
            if same_bucket { "the same bucket: not counted".to_owned() } else { refused.unwrap_or_default() };
        report.row(
            "A service's own database login",
            service,
            "bucket login",
            "SET ROLE of the victim's",
            held,
            told,
        );
        db.close().await;
    }
}

fn same_login(a: &PgConnectOptions, b: &PgConnectOptions) -> bool {
    a.get_username() == b.get_username()
}

/// Why it was refused; none: it was not.
async fn attempt(login: &PgConnectOptions, sql: &str) -> Option<String> {
    let mut conn = PgConnection::connect_with(&login.clone().disable_statement_logging()).await.unwrap();
    let outcome = conn.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
    let _ = conn.close().await;
    outcome
        .err()
        .map(|error| error.as_database_error().map_or_else(|| error.to_string(), |e| e.message().to_owned()))
}

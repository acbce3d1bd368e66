//! What can be tried with a service's own logins, should somebody get hold of one. Each login is a member of the roles of its
//! own share ("bucket") of the tenants, so there are two questions: what it reaches of the others', and what of those.

use nitejar_common::clock::system;
use nitejar_common::id::OrgId;
use nitejar_common::{RequestCtx, clock::SystemClock};
use nitejar_db::{Db, Schema};
use nitejar_dev::test_stack::{TestStack, organization};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection};

use super::attackers::Attackers;
use super::report::Report;
use super::victim::Victim;
use crate::digests::number;

const SCHEMAS: [(&str, Schema); 4] = [
    ("tenancy", nitejar_tenancy::SCHEMA),
    ("sprites", nitejar_sprites::SCHEMA),
    ("billing", nitejar_billing::SCHEMA),
    ("audit", nitejar_audit::SCHEMA),
];

const LOGINS: &str = "A service's own database logins";
const WITHIN: &str = "Two tenants of one login";

/// One service, with organizations of the attackers' in the victim's bucket and in another.
struct Ground {
    service: &'static str,
    db: Db,
    raw: PgConnection,
    prefix: String,
    victim: i64,
    /// A table of the victim's that has rows.
    table: String,
    /// (organization, its number).
    elsewhere: (String, i64),
    beside: (String, i64),
}

impl Ground {
    async fn new(
        stack: &TestStack,
        service: &'static str,
        schema: Schema,
        victim: &Victim,
        attackers: &Attackers,
    ) -> Self {
        let mut raw = stack.database(service).await.unwrap();
        let theirs = number(&mut raw, &victim.world.org).await;
        let prefix =
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
        let db = Db::open(&config, schema, system()).await.unwrap();
        let login = |number: i64| db.testing_bucket_login(number).get_username().to_owned();
        let (mut elsewhere, mut beside) = (None, None);
        let mut org = attackers.world.org.clone();
        for _ in 0..20 {
            let own = number(&mut raw, &org).await;
            let found = if login(own) == login(theirs) { &mut beside } else { &mut elsewhere };
            found.get_or_insert((org, own));
            if elsewhere.is_some() && beside.is_some() {
                break;
            }
            org = organization(&attackers.owner).await.unwrap();
        }
        let (elsewhere, beside) = (elsewhere.expect("another bucket"), beside.expect("the victim's bucket"));
        Self { service, db, raw, prefix, victim: theirs, table, elsewhere, beside }
    }

    /// What is tried at the victim's schema, whoever tries it.
    fn attacks(&self) -> Vec<String> {
        let (n, table) = (self.victim, &self.table);
        vec![
            format!("SELECT * FROM t_{n}.{table}"),
            format!("SET search_path = t_{n}; SELECT * FROM {table}"),
            format!("DELETE FROM t_{n}.{table}"),
            format!("TRUNCATE t_{n}.{table}"),
            format!("DROP SCHEMA t_{n} CASCADE"),
            format!("COPY t_{n}.{table} TO STDOUT"),
            format!("CREATE TABLE t_{n}.mine (x int)"),
            format!("CREATE VIEW pg_temp.mine AS SELECT * FROM t_{n}.{table}"),
            format!("GRANT \"{}_t{n}\" TO CURRENT_USER", self.prefix),
            "SELECT * FROM pg_authid".to_owned(),
        ]
    }

    fn bound_to(&self, tenant: i64) -> String {
        format!("SET ROLE \"{}_t{tenant}\"; ", self.prefix)
    }

    /// Notes what became of SQL that must be refused.
    async fn refused(&self, login: &Login<'_>, attack: &str, report: &mut Report) {
        let refused = attempt(login.options, &format!("{}{attack}", login.before)).await;
        let how = attack.replace(&format!("t_{}", self.victim), "t_N");
        let how = how.replace(&format!("{}_t{}", self.prefix, self.victim), "its role");
        let told = refused.clone().unwrap_or_else(|| "ALLOWED".to_owned());
        report.row(LOGINS, self.service, login.who, how, refused.is_some(), told);
    }
}

/// Somebody's way in: with what, and what they do first.
struct Login<'a> {
    who: &'static str,
    options: &'a PgConnectOptions,
    before: String,
}

/// Each service × each of its logins, bound and unbound.
pub(super) async fn logins(
    stack: &TestStack,
    victim: &mut Victim,
    attackers: &Attackers,
    report: &mut Report,
) {
    for (service, schema) in SCHEMAS {
        let mut ground = Ground::new(stack, service, schema, victim, attackers).await;
        of_others(&mut ground, report).await;
        victim.ask(format!("{service}: its logins"), report).await;
        within_one(&ground, victim, report).await;
        victim.ask(format!("{service}: tenants of one login"), report).await;
        ground.db.close().await;
    }
}

/// A login that does not serve the victim, the control login, and a role of the victim's own login that is bound to another.
async fn of_others(ground: &mut Ground, report: &mut Report) {
    let elsewhere = ground.db.testing_bucket_login(ground.elsewhere.1);
    let beside = ground.db.testing_bucket_login(ground.beside.1);
    let control = ground.db.testing_control_login();
    let login = |who, options, before| Login { who, options, before };
    let logins = [
        login("another bucket's login, unbound", &elsewhere, String::new()),
        login(
            "another bucket's login, bound to the attacker",
            &elsewhere,
            ground.bound_to(ground.elsewhere.1),
        ),
        login("the victim's bucket's login, unbound", &beside, String::new()),
        login(
            "the victim's bucket's login, bound to the attacker",
            &beside,
            ground.bound_to(ground.beside.1),
        ),
        login("control login", &control, String::new()),
    ];
    for login in &logins {
        for attack in ground.attacks() {
            ground.refused(login, &attack, report).await;
        }
    }
    // A login is a member of its own bucket's roles only.
    let assume = format!("{}SELECT * FROM t_{}.outbox", ground.bound_to(ground.victim), ground.victim);
    for login in [&logins[0], &logins[4]] {
        ground.refused(login, &assume, report).await;
    }
    // What is shared: a bound tenant reads none of it, but through functions that take the tenant from its role.
    let shared: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'control'::regnamespace AND relkind = 'r'",
    )
    .fetch_all(&mut ground.raw)
    .await
    .unwrap();
    for table in shared {
        ground.refused(&logins[3], &format!("SELECT * FROM control.{table}"), report).await;
    }
}

/// Within one bucket `SET ROLE` itself is allowed: it is a wall against mistakes. What stands against an attacker is that no
/// text of theirs is ever SQL, and that a transaction begins by binding its own tenant.
async fn within_one(ground: &Ground, victim: &Victim, report: &mut Report) {
    let (org, own) = &ground.beside;
    let (n, table) = (ground.victim, &ground.table);
    let org: OrgId = org.parse().unwrap();
    let ctx = RequestCtx::service(ground.service, &SystemClock).for_tenant(org);
    let theirs =
        RequestCtx::service(ground.service, &SystemClock).for_tenant(victim.world.org.parse().unwrap());
    let mut row = |how: &str, held: bool, told: String| {
        report.row(WITHIN, ground.service, "a transaction bound to the attacker", how, held, told);
    };
    // The victim is served before and after, so that it is one connection's neighbours that are looked at.
    for round in 0..3 {
        drop(ground.db.tenant(&theirs).await.unwrap());
        let mut tx = ground.db.tenant(&ctx).await.unwrap();
        let (role, schema): (String, String) =
            sqlx::query_as("SELECT current_user::text, current_schema()::text")
                .fetch_one(tx.conn())
                .await
                .unwrap();
        let held = role == format!("{}_t{own}", ground.prefix) && schema == format!("t_{own}");
        if round == 0 || !held {
            row(
                "begins by binding its own tenant, whom the connection served before",
                held,
                "its own role and schema".into(),
            );
        }
        tx.commit().await.unwrap();
    }
    // A request's text in a parameter is text.
    let text = format!("'; SET ROLE \"{}_t{n}\"; SELECT * FROM t_{n}.{table}; --", ground.prefix);
    let mut tx = ground.db.tenant(&ctx).await.unwrap();
    let back: String = sqlx::query_scalar("SELECT $1::text").bind(&text).fetch_one(tx.conn()).await.unwrap();
    let role: String = sqlx::query_scalar("SELECT current_user::text").fetch_one(tx.conn()).await.unwrap();
    row(
        "SET ROLE of the victim's as a parameter",
        back == text && role.ends_with(&format!("_t{own}")),
        "it stays text".into(),
    );
    // And a second statement within a statement with parameters, which is how every store asks, is refused by the server.
    let two = format!("SELECT $1::int; SET ROLE \"{}_t{n}\"", ground.prefix);
    let error = sqlx::query(AssertSqlSafe(two)).bind(1).execute(tx.conn()).await.err();
    let told = error.as_ref().map_or("ALLOWED".to_owned(), said);
    row("SET ROLE of the victim's behind a statement with parameters", error.is_some(), told);
    drop(tx);
    // Whoever forgot to commit, or broke off, leaves its role to nobody.
    let mut tx = ground.db.tenant(&theirs).await.unwrap();
    let role: String = sqlx::query_scalar("SELECT current_user::text").fetch_one(tx.conn()).await.unwrap();
    row(
        "broke off: the victim's next transaction is the victim's",
        role.ends_with(&format!("_t{n}")),
        "its own role".into(),
    );
}

fn said(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |e| e.message().to_owned())
}

/// Why it was refused; none: it was not.
async fn attempt(login: &PgConnectOptions, sql: &str) -> Option<String> {
    let mut conn = PgConnection::connect_with(&login.clone().disable_statement_logging()).await.unwrap();
    let outcome = conn.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
    let _ = conn.close().await;
    outcome.err().map(|error| said(&error))
}

//! Makes what a database needs before its first migration: `control`, its meta row, and the logins.

use hmac::{Hmac, KeyInit as _, Mac as _};
use nitejar_common::error::{Error, Result};
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, PgPool};

use crate::config::DatabaseConfig;
use crate::errors;
use crate::names::Names;

/// Key of the advisory lock under which bootstrap and control migrations run.
pub(crate) const LOCK: i64 = 0x006e_6974_656a_6172;

/// The prefix and the number of buckets live in the database, so that a clone (`CREATE DATABASE … TEMPLATE`) keeps
/// working with the template's roles, and a changed configuration moves no tenant.
pub(crate) async fn prepare(admin: &PgPool, config: &DatabaseConfig) -> Result<Names> {
    let mut tx = admin.begin().await.map_err(errors::from_sqlx)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await?;
    sqlx::raw_sql(
        "CREATE SCHEMA IF NOT EXISTS control;
         REVOKE ALL ON SCHEMA control FROM PUBLIC;
         REVOKE ALL ON SCHEMA public FROM PUBLIC;
         CREATE TABLE IF NOT EXISTS control.meta (
             one boolean PRIMARY KEY DEFAULT true CHECK (one),
             role_prefix text NOT NULL, buckets int NOT NULL, login_digest text NOT NULL);
         CREATE TABLE IF NOT EXISTS control.migrations (
             source text NOT NULL, version int NOT NULL, name text NOT NULL, checksum text NOT NULL,
             applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (source, version))",
    )
    .execute(&mut *tx)
    .await
    .map_err(errors::from_sqlx)?;
    let database: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&mut *tx).await?;
    sqlx::query(
        "INSERT INTO control.meta (role_prefix, buckets, login_digest) VALUES ($1, $2, '') ON CONFLICT DO NOTHING",
    )
    .bind(&database)
    .bind(i32::from(config.buckets))
    .execute(&mut *tx)
    .await?;
    let (prefix, buckets, digest): (String, i32, String) =
        sqlx::query_as("SELECT role_prefix, buckets, login_digest FROM control.meta")
            .fetch_one(&mut *tx)
            .await?;
    let plain = prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !plain || prefix.is_empty() || prefix.len() > 40 {
        return Err(Error::internal(format!(
            "the database's name {prefix:?} must be 1 to 40 of a-z, 0-9 and _: roles are named after it"
        )));
    }
    let buckets = u16::try_from(buckets).unwrap_or(1).max(1);
    if buckets != config.buckets {
        tracing::warn!(
            configured = config.buckets,
            kept = buckets,
            "database.buckets is fixed when first opened"
        );
    }
    let names = Names::new(prefix, buckets);
    let wanted = hex::encode(Sha256::digest(format!("2:{}", config.login_secret.expose())));
    if digest != wanted {
        make_logins(&mut tx, config, &names, &database).await?;
        sqlx::query("UPDATE control.meta SET login_digest = $1").bind(&wanted).execute(&mut *tx).await?;
    }
    // A clone has no privileges on the database itself.
    let mut grants = format!("REVOKE ALL ON DATABASE \"{database}\" FROM PUBLIC;");
    for login in logins(&names) {
        grants.push_str(&format!("GRANT CONNECT ON DATABASE \"{database}\" TO \"{login}\";"));
    }
    let connects: bool = sqlx::query_scalar("SELECT has_database_privilege($1, current_database(), 'CONNECT') \
         AND NOT EXISTS (SELECT FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = current_database() AND a.grantee = 0) \
         AND (SELECT datacl IS NOT NULL FROM pg_database WHERE datname = current_database())")
        .bind(names.control())
        .fetch_one(&mut *tx)
        .await?;
    if !connects {
        sqlx::raw_sql(AssertSqlSafe(grants)).execute(&mut *tx).await.map_err(errors::from_sqlx)?;
    }
    tx.commit().await.map_err(errors::from_sqlx)?;
    Ok(names)
}

fn logins(names: &Names) -> Vec<String> {
    let mut all = vec![names.control()];
    all.extend((0..names.buckets()).map(|b| names.bucket(b)));
    all
}

/// Timeouts belong to the login: no code path can forget them.
async fn make_logins(
    tx: &mut sqlx::PgConnection,
    config: &DatabaseConfig,
    names: &Names,
    database: &str,
) -> Result<()> {
    for login in logins(names) {
        let password = password(config, &login);
        let sql = format!(
            "{create}
             ALTER ROLE \"{login}\" LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '{password}';
             ALTER ROLE \"{login}\" SET statement_timeout = '30s';
             ALTER ROLE \"{login}\" SET lock_timeout = '10s';
             ALTER ROLE \"{login}\" SET idle_in_transaction_session_timeout = '60s';
             GRANT CONNECT ON DATABASE \"{database}\" TO \"{login}\";",
            create = create_role(&login)
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await.map_err(errors::from_sqlx)?;
    }
    let (control, all) = (names.control(), names.all_tenants());
    let sql = format!(
        "{create} GRANT USAGE ON SCHEMA control TO \"{all}\";
         ALTER ROLE \"{control}\" SET search_path = control;
         GRANT USAGE ON SCHEMA control TO \"{control}\";",
        create = create_role(&all)
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(tx).await.map_err(errors::from_sqlx)?;
    Ok(())
}

/// Roles are the cluster's: another database's process may make the same one at the same time.
pub(crate) fn create_role(role: &str) -> String {
    format!(
        "DO $do$ BEGIN CREATE ROLE \"{role}\" NOLOGIN; \
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $do$;"
    )
}

/// Hex only, so that it can stand in a statement.
fn password(config: &DatabaseConfig, login: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(config.login_secret.expose().as_bytes())
        .expect("HMAC takes a key of any length");
    mac.update(login.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// How one of our logins connects.
pub(crate) fn login(options: &PgConnectOptions, config: &DatabaseConfig, login: &str) -> PgConnectOptions {
    options.clone().username(login).password(&password(config, login)).statement_cache_capacity(256)
}

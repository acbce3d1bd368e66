//! The tenant's subscription.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// The one row.
#[derive(Clone, Debug, FromRow)]
pub struct SubscriptionRow {
    /// The plan.
    pub plan: String,
    /// Its version.
    pub plan_version: i32,
    /// `active`.
    pub state: String,
    /// Since when.
    pub changed_at: DateTime<Utc>,
}

/// Reads it.
pub async fn get(conn: &mut PgConnection) -> sqlx::Result<SubscriptionRow> {
    sqlx::query_as("SELECT plan, plan_version, state, changed_at FROM subscription").fetch_one(conn).await
}

/// Reads it and keeps others from changing it until the transaction ends.
pub async fn lock(conn: &mut PgConnection) -> sqlx::Result<SubscriptionRow> {
    sqlx::query_as("SELECT plan, plan_version, state, changed_at FROM subscription FOR UPDATE")
        .fetch_one(conn)
        .await
}

/// Changes the plan.
pub async fn set_plan(
    conn: &mut PgConnection,
    plan: &str,
    version: i32,
    at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query("UPDATE subscription SET plan = $1, plan_version = $2, changed_at = $3")
        .bind(plan)
        .bind(version)
        .bind(at)
        .execute(conn)
        .await?;
    Ok(())
}

//! Plans, in `control`.

use sqlx::{FromRow, PgConnection};

/// One version of a plan.
#[derive(Clone, Debug, FromRow)]
pub struct PlanRow {
    /// `free`, …
    pub id: String,
    /// From 1.
    pub version: i32,
    /// Display name.
    pub name: String,
    /// None: unlimited.
    pub agents_limit: Option<i64>,
    /// None: unlimited.
    pub jobs_limit: Option<i64>,
    /// None: unlimited.
    pub api_calls_limit: Option<i64>,
    /// What it unlocks.
    pub features: Vec<String>,
    /// None: by agreement.
    pub price_cents: Option<i64>,
    /// ISO 4217, lower case.
    pub currency: String,
    /// None: unlimited.
    pub seats_limit: Option<i64>,
}

/// Every version of every plan, cheapest plan first, newest version first.
pub async fn all(conn: &mut PgConnection) -> sqlx::Result<Vec<PlanRow>> {
    sqlx::query_as(
        "SELECT id, version, name, agents_limit, jobs_limit, api_calls_limit, features, price_cents, currency, seats_limit \
         FROM control.plans ORDER BY rank, version DESC",
    )
    .fetch_all(conn)
    .await
}

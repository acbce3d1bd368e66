//! The offer of ownership, if there is one.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// An offer.
#[derive(Clone, Debug, FromRow)]
pub struct OfferRow {
    /// The owner who offers.
    pub from_user: String,
    /// The member it is made to.
    pub to_user: String,
    /// Since when.
    pub offered_at: DateTime<Utc>,
    /// Until when.
    pub expires_at: DateTime<Utc>,
}

/// Makes an offer instead of the one before.
pub async fn put(conn: &mut PgConnection, offer: &OfferRow) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO ownership_offer (from_user, to_user, offered_at, expires_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (one) DO UPDATE SET from_user = $1, to_user = $2, offered_at = $3, expires_at = $4",
    )
    .bind(&offer.from_user)
    .bind(&offer.to_user)
    .bind(offer.offered_at)
    .bind(offer.expires_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// The offer that stands.
pub async fn get(conn: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<Option<OfferRow>> {
    sqlx::query_as(
        "SELECT from_user, to_user, offered_at, expires_at FROM ownership_offer WHERE expires_at > $1",
    )
    .bind(now)
    .fetch_optional(conn)
    .await
}

/// The same, kept from changing.
pub async fn lock(conn: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<Option<OfferRow>> {
    sqlx::query_as(
        "SELECT from_user, to_user, offered_at, expires_at FROM ownership_offer WHERE expires_at > $1 FOR UPDATE",
    )
    .bind(now)
    .fetch_optional(conn)
    .await
}

/// Ends it.
pub async fn delete(conn: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM ownership_offer").execute(conn).await?;
    Ok(())
}

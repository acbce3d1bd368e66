//! The outbox: what must happen elsewhere because of a change is written with the change, and delivered afterwards, at
//! least once, until it is taken.
//!
//! [`push`] writes the message and a pointer to its tenant (`control.outbox_due`) in the caller's transaction.
//! [`Relay`] finds due pointers with a lease, reads the tenant's due messages with a lease each, delivers them in
//! batches, and only then deletes them; the pointer goes last. Killed anywhere in between, the leases run out and
//! everything is found again, so receivers must know a message by its id.
//!
//! No sweep over all tenants is needed: a message and its pointer commit together; a pointer is deleted only after a
//! look at the tenant's outbox that began after the pointer was visible and that found nothing more to do, and put off while
//! another replica holds something there; and a failed
//! message gets a new pointer, for the time it is due, in the transaction that records the failure.
//!
//! Order: messages of one topic and key are delivered one after another as written. One that fails holds back its own
//! key only.

mod relay;

use chrono::{DateTime, Utc};
use nitejar_common::RequestCtx;
use nitejar_common::clock::Clock;
use nitejar_common::error::Result;
use nitejar_common::id::OutboxId;
use sqlx::{FromRow, PgConnection};

use crate::errors;

pub use relay::{Deliver, Delivery, Failure, Relay};

/// A message on its way.
#[derive(Clone, Debug, FromRow)]
pub struct OutboxMessage {
    /// Order of writing in one tenant.
    pub seq: i64,
    /// `out_…`: the idempotency key of its effect.
    pub id: String,
    /// What kind of message, such as `audit`.
    pub topic: String,
    /// Messages of one key stay in order.
    pub key: String,
    /// Encoded by the topic's rule.
    pub payload: Vec<u8>,
    /// The request that caused it.
    pub request_id: String,
    /// Its `traceparent`; empty when it was not traced.
    pub trace: String,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// How often delivery was tried before.
    pub attempts: i32,
}

/// Writes a message into the outbox of the schema that the connection is bound to: a tenant's, or `control`'s.
pub async fn push(
    conn: &mut PgConnection,
    ctx: &RequestCtx,
    clock: &dyn Clock,
    topic: &str,
    key: &str,
    payload: &[u8],
) -> Result<()> {
    let now = clock.now();
    // One statement: a message without its pointer can't be.
    sqlx::query(
        "WITH message AS (INSERT INTO outbox (id, topic, key, payload, request_id, trace, created_at, next_attempt_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)) SELECT control.outbox_mark($7)",
    )
    .bind(OutboxId::new(clock).as_str())
    .bind(topic)
    .bind(key)
    .bind(payload)
    .bind(&ctx.request_id)
    .bind(nitejar_common::grpc::trace::current_traceparent())
    .bind(now)
    .execute(conn)
    .await
    .map_err(errors::from_sqlx)?;
    Ok(())
}

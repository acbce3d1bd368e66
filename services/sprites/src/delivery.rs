//! Tells billing how units ended: counted or given back, through the outbox, many keys in one call.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use nitejar_common::RequestCtx;
use nitejar_common::clock::Clock;
use nitejar_common::error::Result;
use nitejar_common::grpc::client::Upstream;
use nitejar_db::outbox::{Deliver, Delivery, Failure, OutboxMessage};
use nitejar_proto::billing::v1::billing_internal_client::BillingInternalClient;
use nitejar_proto::billing::v1::{CommitRequest, ReleaseRequest};
use sqlx::PgConnection;

/// Jobs that are counted.
pub(crate) const COMMIT: &str = "billing.commit";
/// Jobs that are given back.
pub(crate) const RELEASE: &str = "billing.release";
/// Agents that exist no more.
pub(crate) const RELEASE_AGENTS: &str = "billing.release_agents";
/// All of them.
pub(crate) const TOPICS: [&str; 3] = [COMMIT, RELEASE, RELEASE_AGENTS];

/// Notes keys for one of the topics.
pub(crate) async fn push(
    conn: &mut PgConnection,
    ctx: &RequestCtx,
    clock: &dyn Clock,
    topic: &str,
    keys: &[String],
) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    nitejar_db::outbox::push(conn, ctx, clock, topic, "", &serde_json::to_vec(keys)?).await
}

/// Delivers one topic.
pub(crate) struct BillingDelivery {
    billing: Upstream,
    topic: &'static str,
}

impl BillingDelivery {
    pub(crate) fn new(billing: Upstream, topic: &'static str) -> Arc<Self> {
        Arc::new(Self { billing, topic })
    }

    async fn send(&self, ctx: &RequestCtx, keys: Vec<String>) -> Result<()> {
        let mut client = BillingInternalClient::new(self.billing.channel());
        match self.topic {
            COMMIT => {
                let message = CommitRequest { meter: "jobs".into(), keys };
                client.commit(self.billing.request(ctx, message)?).await?;
            }
            topic => {
                let meter = if topic == RELEASE { "jobs" } else { "agents" };
                let message = ReleaseRequest { meter: meter.into(), keys };
                client.release(self.billing.request(ctx, message)?).await?;
            }
        }
        Ok(())
    }
}

impl Deliver for BillingDelivery {
    fn deliver<'a>(
        &'a self,
        ctx: &'a RequestCtx,
        batch: &'a [OutboxMessage],
    ) -> BoxFuture<'a, Vec<Delivery>> {
        Box::pin(async move {
            let mut results: Vec<Delivery> = Vec::with_capacity(batch.len());
            let mut keys: Vec<String> = Vec::new();
            let mut waiting = 0;
            for (i, message) in batch.iter().enumerate() {
                keys.extend(serde_json::from_slice::<Vec<String>>(&message.payload).unwrap_or_default());
                waiting += 1;
                let next = batch.get(i + 1).map_or(usize::MAX, |m| m.payload.len() / 28);
                if next == usize::MAX || keys.len() + next > 450 {
                    let mut sent = Ok(());
                    for chunk in std::mem::take(&mut keys).chunks(500) {
                        sent = self.send(ctx, chunk.to_vec()).await.map_err(Failure::from);
                        if sent.is_err() {
                            break;
                        }
                    }
                    results.extend(std::iter::repeat_n(sent, waiting));
                    waiting = 0;
                }
            }
            results
        })
    }
}

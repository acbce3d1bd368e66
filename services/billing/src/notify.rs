//! Tells sprites that an organization's limits changed.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::client::Upstream;
use nitejar_db::outbox::{Deliver, Delivery, Failure, OutboxMessage};
use nitejar_proto::sprites::v1::QuotaChangedRequest;
use nitejar_proto::sprites::v1::sprites_internal_client::SpritesInternalClient;

/// The outbox topic. Its messages are empty: who reads one asks billing again.
pub const TOPIC: &str = "quota.changed";

/// Delivers the topic.
#[derive(Debug)]
pub struct QuotaChanged(Upstream);

impl QuotaChanged {
    /// To sprites.
    pub fn new(sprites: Upstream) -> Arc<Self> {
        Arc::new(Self(sprites))
    }

    async fn send(&self, ctx: &RequestCtx) -> Result<()> {
        let request = self.0.request(ctx, QuotaChangedRequest {})?;
        let told = SpritesInternalClient::new(self.0.channel()).quota_changed(request).await;
        match told.map_err(Error::from) {
            // Purged there: nothing waits for it any more.
            Err(error) if error.code() == Code::NotFound => Ok(()),
            told => told.map(drop),
        }
    }
}

impl Deliver for QuotaChanged {
    fn deliver<'a>(
        &'a self,
        ctx: &'a RequestCtx,
        batch: &'a [OutboxMessage],
    ) -> BoxFuture<'a, Vec<Delivery>> {
        // One call says it for all of the batch.
        Box::pin(async move { vec![self.send(ctx).await.map_err(Failure::from); batch.len()] })
    }
}

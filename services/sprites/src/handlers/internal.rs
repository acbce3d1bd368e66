//! What other services tell or ask.

use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::grpc::trace::current_traceparent;
use nitejar_proto::sprites::v1 as pb;
use nitejar_proto::sprites::v1::sprites_internal_server::SpritesInternal;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::store::github;

#[tonic::async_trait]
impl SpritesInternal for Service {
    async fn resolve_runner(
        &self,
        request: Request<pb::ResolveRunnerRequest>,
    ) -> Result<Response<pb::ResolveRunnerResponse>, Status> {
        only(&ctx(&request)?.actor.id, "gateway")?;
        let found = self.sprite_by_token(&request.get_ref().token_sha256).await?;
        let (sprite_id, org_id) =
            found.ok_or_else(|| Error::new(Code::InvalidCredential, "This token is not valid."))?;
        Ok(Response::new(pb::ResolveRunnerResponse { sprite_id, org_id }))
    }

    async fn receive_github_webhook(
        &self,
        request: Request<pb::ReceiveGithubWebhookRequest>,
    ) -> Result<Response<pb::ReceiveGithubWebhookResponse>, Status> {
        only(&ctx(&request)?.actor.id, "gateway")?;
        let r = request.into_inner();
        let github = self.github.as_ref().ok_or_else(|| Error::not_found("GitHub App here"))?;
        if !github.signed(&r.body, &r.signature) {
            return Err(Error::new(Code::InvalidSignature, "The signature does not fit the body.").into());
        }
        let plain = |text: &str, most: usize| {
            !text.is_empty() && text.len() <= most && text.bytes().all(|b| b.is_ascii_graphic())
        };
        if !plain(&r.delivery_id, 64) || !plain(&r.event, 64) {
            return Err(Error::invalid("/headers", "must have X-GitHub-Delivery and X-GitHub-Event").into());
        }
        let mut tx = self.db.control().await?;
        let (id, event, now) = (&r.delivery_id, &r.event, self.clock.now());
        let new = github::keep_delivery(tx.conn(), id, event, &r.body, &current_traceparent(), now).await;
        let new = new.map_err(Error::from)?;
        tx.commit().await?;
        if new {
            self.received.notify_one();
        }
        let result = if new { "accepted" } else { "duplicate" };
        Ok(Response::new(pb::ReceiveGithubWebhookResponse { result: result.into() }))
    }

    async fn quota_changed(
        &self,
        request: Request<pb::QuotaChangedRequest>,
    ) -> Result<Response<pb::QuotaChangedResponse>, Status> {
        let ctx = ctx(&request)?;
        only(&ctx.actor.id, "billing")?;
        self.unblock(&ctx).await?;
        Ok(Response::new(pb::QuotaChangedResponse {}))
    }
}

fn only(actor: &str, service: &str) -> Result<()> {
    if actor == service {
        Ok(())
    } else {
        Err(Error::new(Code::PermissionDenied, format!("This is for the {service} service only.")))
    }
}

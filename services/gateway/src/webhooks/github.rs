//! GitHub's webhooks.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{StatusCode, header};
use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::id::RequestId;
use nitejar_proto::sprites::v1::ReceiveGithubWebhookRequest;
use nitejar_proto::sprites::v1::sprites_internal_client::SpritesInternalClient;
use tracing::Instrument as _;

use super::text;
use crate::service::Gateway;
use crate::{body, problem};

/// GitHub's own cap is 25 MB.
const LARGEST: usize = 25 << 20;

pub(crate) async fn receive(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let request_id = RequestId::new(&*gateway.clock).to_string();
    let span = tracing::info_span!("POST /webhooks/github", service = "gateway", otel.kind = "server", request_id = %request_id);
    nitejar_common::grpc::trace::continue_from(&span, request.headers());
    match forward(&gateway, request, &request_id).instrument(span).await {
        Ok((status, result)) => {
            let mut response = Response::new(Body::from(serde_json::json!({ "result": result }).to_string()));
            *response.status_mut() = status;
            let json = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            problem::finish(response, &request_id)
        }
        Err(error) => problem::response(&error, &request_id),
    }
}

async fn forward(gateway: &Gateway, request: Request, request_id: &str) -> Result<(StatusCode, String)> {
    let (head, body) = request.into_parts();
    let signature = text(&head.headers, "x-hub-signature-256");
    if signature.is_empty() {
        return Err(Error::new(
            Code::InvalidSignature,
            "A webhook must be signed: X-Hub-Signature-256 is missing.",
        ));
    }
    let busy = || Error::unavailable().because("too many webhooks at a time");
    let _one = gateway.webhooks.try_acquire().map_err(|_| busy())?;
    let body = body::read(&head.headers, body, LARGEST).await?;
    let message = ReceiveGithubWebhookRequest {
        event: text(&head.headers, "x-github-event"),
        delivery_id: text(&head.headers, "x-github-delivery"),
        signature,
        body,
    };
    let me = RequestCtx::service("gateway", &*gateway.clock).with_request_id(request_id);
    let upstream = &gateway.services.sprites;
    let call = upstream.request(&me, message)?;
    let mut client = SpritesInternalClient::new(upstream.channel()).max_encoding_message_size(LARGEST + 4096);
    let result = client.receive_github_webhook(call).await?.into_inner().result;
    let status = if result == "accepted" { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, result))
}

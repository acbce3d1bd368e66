//! GitHub's webhooks.

use std::net::IpAddr;
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

use super::{charge, text};
use crate::finish::Finished;
use crate::service::Gateway;
use crate::{address, body, problem};

/// GitHub's own cap is 25 MB.
const LARGEST: usize = 25 << 20;

pub(crate) async fn receive(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let request_id = RequestId::new(&*gateway.clock).to_string();
    let span = tracing::info_span!("POST /webhooks/github", service = "gateway", otel.kind = "server", request_id = %request_id);
    nitejar_common::grpc::trace::continue_from(&span, request.headers());
    // Whoever sends and goes away is refused, and counted, all the same.
    let id = request_id.clone();
    let work = async move {
        let address = address::of_request(&request, &gateway.trusted_proxies);
        let result = forward(&gateway, request, address, &id).await;
        charge(&gateway.limits, address, result)
    };
    match Finished::new(work.instrument(span)).await.flatten() {
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

async fn forward(
    gateway: &Gateway,
    request: Request,
    address: IpAddr,
    request_id: &str,
) -> Result<(StatusCode, String)> {
    let (head, body) = request.into_parts();
    let signature = text(&head.headers, "x-hub-signature-256");
    if signature.is_empty() {
        return Err(Error::new(
            Code::InvalidSignature,
            "A webhook must be signed: X-Hub-Signature-256 is missing.",
        ));
    }
    let door = &gateway.webhooks.github;
    // Held until the answer.
    let mut room = door.bodies.enter(address)?;
    let body = body::read(&head.headers, body, LARGEST, |bytes| room.grow(bytes)).await?;
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
    let asking = async move { Ok(client.receive_github_webhook(call).await?.into_inner().result) };
    let result = door.prove(&gateway.limits, address, asking).await?;
    let status = if result == "accepted" { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, result))
}

//! GitHub found keys of ours in public: its secret scanning partner program.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header;
use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::id::RequestId;
use nitejar_proto::tenancy::v1::ReportLeaksRequest;
use nitejar_proto::tenancy::v1::tenancy_internal_client::TenancyInternalClient;

use super::{charge, text};
use crate::finish::Finished;
use crate::service::Gateway;
use crate::{address, body, problem};

/// A report is a list of tokens and addresses.
const LARGEST: usize = 1 << 20;

pub(crate) async fn receive(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let request_id = RequestId::new(&*gateway.clock).to_string();
    // Whoever sends and goes away is refused, and counted, all the same.
    let id = request_id.clone();
    let work = async move {
        let address = address::of_request(&request, &gateway.trusted_proxies);
        let result = forward(&gateway, request, address, &id).await;
        charge(&gateway.limits, address, result)
    };
    match Finished::new(work).await.flatten() {
        Ok(labels) => {
            let mut response = Response::new(Body::from(labels));
            let json = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            problem::finish(response, &request_id)
        }
        Err(error) => problem::response(&error, &request_id),
    }
}

async fn forward(gateway: &Gateway, request: Request, address: IpAddr, request_id: &str) -> Result<String> {
    let (head, body) = request.into_parts();
    let key_identifier = text(&head.headers, "github-public-key-identifier");
    let signature = text(&head.headers, "github-public-key-signature");
    if key_identifier.is_empty() || signature.is_empty() {
        let detail = "A report must be signed: Github-Public-Key-Identifier and Github-Public-Key-Signature.";
        return Err(Error::new(Code::InvalidSignature, detail));
    }
    let door = &gateway.webhooks.secret_scanning;
    // Held until the answer.
    let mut room = door.bodies.enter(address)?;
    let body = body::read(&head.headers, body, LARGEST, |bytes| room.grow(bytes)).await?;
    let body = Vec::from(body);
    let me = RequestCtx::service("gateway", &*gateway.clock).with_request_id(request_id);
    let upstream = &gateway.services.tenancy;
    let call = upstream.request(&me, ReportLeaksRequest { key_identifier, signature, body })?;
    let mut client = TenancyInternalClient::new(upstream.channel());
    let asking = async move { Ok(client.report_leaks(call).await?.into_inner().labels) };
    door.prove(&gateway.limits, address, asking).await
}

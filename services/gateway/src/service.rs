//! One request, from its first byte to its last.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use nitejar_common::RequestCtx;
use nitejar_common::clock::SharedClock;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::trace;
use nitejar_common::id::{RequestId, is_id};
use nitejar_proto::policy::Scope;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram};
use prost::Message as _;
use prost_reflect::DynamicMessage;
use tracing::Instrument as _;

use crate::authn::cache::Credentials;
use crate::authn::{self, Caller};
use crate::denials::Denials;
use crate::meter::Meter;
use crate::transcode::codec::RawCodec;
use crate::transcode::routes::{Match, Route, Routes};
use crate::transcode::{plan, request, response, stream};
use crate::upstreams::Services;
use crate::{authz, body, problem};

/// The deadline of a call.
const DEADLINE: Duration = Duration::from_secs(30);
/// A runner's long poll takes longer.
const LONG_POLL: Duration = Duration::from_secs(40);
/// A body that took longer to arrive: who sent it is asked for again.
const RECHECK: Duration = Duration::from_millis(200);

/// What a stream's reader has seen, in the words of server-sent events.
pub(crate) const LAST_EVENT_ID: header::HeaderName = header::HeaderName::from_static("last-event-id");

/// What requests share.
pub(crate) struct Gateway {
    pub(crate) routes: Routes,
    pub(crate) services: Services,
    pub(crate) probes: Services,
    pub(crate) clock: SharedClock,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) denials: Denials,
    pub(crate) meter: Arc<Meter>,
    pub(crate) metrics: Metrics,
    /// Webhooks are large and unproved until sprites looked at them: so many are held at a time.
    pub(crate) webhooks: tokio::sync::Semaphore,
}

/// Counts and times.
pub(crate) struct Metrics {
    requests: Counter<u64>,
    seconds: Histogram<f64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = opentelemetry::global::meter("nitejar");
        Self {
            requests: meter
                .u64_counter("http_requests")
                .with_description("Requests by RPC and status")
                .build(),
            seconds: meter.f64_histogram("http_request_seconds").with_unit("s").build(),
        }
    }
}

pub(crate) async fn handle(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let began = std::time::Instant::now();
    let request_id = RequestId::new(&*gateway.clock).to_string();
    let mut rpc = "unknown";
    // HEAD is GET without the body, which the server leaves out by itself; but nobody expects it to do anything.
    let head = request.method() == Method::HEAD;
    let verb = if head { &Method::GET } else { request.method() };
    let answer = match gateway.routes.find(verb.as_str(), request.uri().path()) {
        Match::Nothing => Err(Error::not_found("such path. See /openapi.json")),
        Match::WrongMethod(verbs) => Ok(problem::wrong_method(&verbs, &request_id)),
        Match::Found(route, _)
            if head && (!route.policy.idempotent || route.method.is_server_streaming()) =>
        {
            Ok(problem::wrong_method(&["GET"], &request_id))
        }
        Match::Found(route, variables) => {
            rpc = &route.policy.path;
            let span = tracing::info_span!("http", otel.name = %rpc, otel.kind = "server", service = "gateway",
                request_id = %request_id, tenant = tracing::field::Empty);
            trace::continue_from(&span, request.headers());
            let (gateway, route, id) = (Arc::clone(&gateway), Arc::clone(route), request_id.clone());
            // A task of its own: a client that goes away must not reset our calls, for resets in bursts break the
            // connections that all others share. And what was begun is finished.
            let work = async move { serve(&gateway, route, variables, request, &id).await };
            tokio::spawn(work.instrument(span)).await.unwrap_or_else(|e| Err(Error::from(e)))
        }
    };
    let response = answer.unwrap_or_else(|error| problem::response(&error, &request_id));
    let labels = [
        KeyValue::new("rpc", rpc.to_owned()),
        KeyValue::new("status", i64::from(response.status().as_u16())),
    ];
    gateway.metrics.requests.add(1, &labels);
    gateway.metrics.seconds.record(began.elapsed().as_secs_f64(), &labels[..1]);
    response
}

/// A path that is no RPC's was asked with another verb than its own.
pub(crate) async fn wrong_method(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let request_id = RequestId::new(&*gateway.clock).to_string();
    let verb = if request.uri().path().starts_with("/webhooks/") { "POST" } else { "GET" };
    problem::wrong_method(&[verb], &request_id)
}

async fn serve(
    gateway: &Arc<Gateway>,
    route: Arc<Route>,
    variables: Vec<(String, String)>,
    http: Request,
    request_id: &str,
) -> Result<Response> {
    let policy = route.policy;
    let org = variables.iter().find(|(name, _)| name == "org_id").map(|(_, value)| value.as_str());
    let (head, body) = http.into_parts();
    let mut ctx = who_where_may(gateway, &route, &head.headers, org, request_id).await?;
    if let Some(tenant) = &ctx.tenant {
        tracing::Span::current().record("tenant", tenant.as_str());
    }
    let takes_body = policy.http.as_ref().is_some_and(|h| !h.body.is_empty());
    let began = std::time::Instant::now();
    let json = body::read_json(&head.headers, body, takes_body).await?;
    if began.elapsed() > RECHECK {
        // The credential may have ended while its body was on the way.
        ctx = who_where_may(gateway, &route, &head.headers, org, request_id).await?;
    }
    let filled = request::Headers {
        if_match: header_text(&head.headers, &header::IF_MATCH),
        last_event_id: header_text(&head.headers, &LAST_EVENT_ID),
    };
    let query = head.uri.query().unwrap_or_default();
    let message = request::build(&route, &variables, query, filled, json)?;
    if policy.metered {
        gateway.meter.spend(ctx.tenant()?).await?;
    }
    if route.method.is_server_streaming() {
        let check = still_may(gateway, &route, head.headers, org, request_id);
        return open_stream(gateway, &route, &ctx, message, check, request_id).await;
    }
    send(gateway, route, ctx, message, request_id).await
}

/// Asks again, as often as it is called, what [`who_where_may`] answered at first.
fn still_may(
    gateway: &Arc<Gateway>,
    route: &Arc<Route>,
    headers: HeaderMap,
    org: Option<&str>,
    request_id: &str,
) -> stream::Check {
    let (gateway, route) = (Arc::clone(gateway), Arc::clone(route));
    let (org, id) = (org.map(str::to_owned), request_id.to_owned());
    Box::new(move || {
        let (gateway, route, headers) = (Arc::clone(&gateway), Arc::clone(&route), headers.clone());
        let (org, id) = (org.clone(), id.clone());
        Box::pin(
            async move { who_where_may(&gateway, &route, &headers, org.as_deref(), &id).await.map(drop) },
        )
    })
}

async fn open_stream(
    gateway: &Gateway,
    route: &Route,
    ctx: &RequestCtx,
    message: DynamicMessage,
    check: stream::Check,
    request_id: &str,
) -> Result<Response> {
    let upstream = gateway.services.get(route.policy.upstream())?;
    let path = http::uri::PathAndQuery::from_static(&route.policy.path);
    let mut client = tonic::client::Grpc::new(upstream.channel());
    let call = upstream.stream_request(ctx, Bytes::from(message.encode_to_vec()))?;
    client.ready().await?;
    let answer = client.server_streaming(call, path, RawCodec).await?.into_inner();
    let body = stream::body(answer, route.method.output(), check, request_id.to_owned());
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(problem::finish(response, request_id))
}

fn header_text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// Credential, organization, permission; what is refused to somebody known is audited.
async fn who_where_may(
    gateway: &Gateway,
    route: &Route,
    headers: &HeaderMap,
    org: Option<&str>,
    request_id: &str,
) -> Result<RequestCtx> {
    let policy = route.policy;
    // What is no id names no organization; nobody needs to be asked about it.
    let asked = org.filter(|org| is_id(org, "org")).unwrap_or_default();
    let caller: Caller = match authn::presented(headers)? {
        Some((kind, token)) => {
            let (services, kept) = (&gateway.services, &gateway.credentials);
            authn::resolve(services, kept, &*gateway.clock, request_id, kind, token, asked).await?
        }
        None if policy.scope == Scope::Public => authn::anonymous(),
        None => {
            return Err(Error::new(Code::Unauthenticated, "Send a key as Authorization: Bearer …."));
        }
    };
    authz::authorize(policy, &caller, org, request_id).inspect_err(|error| {
        gateway.denials.note(&caller, &policy.path, org.filter(|org| is_id(org, "org")), error, request_id);
    })
}

async fn send(
    gateway: &Arc<Gateway>,
    route: Arc<Route>,
    ctx: RequestCtx,
    message: DynamicMessage,
    request_id: &str,
) -> Result<Response> {
    let policy = route.policy;
    let upstream = gateway.services.get(policy.upstream())?;
    let path = http::uri::PathAndQuery::from_static(&policy.path);
    let bytes = Bytes::from(message.encode_to_vec());
    let mut client = tonic::client::Grpc::new(upstream.channel()).max_decoding_message_size(16 << 20);
    let deadline = if policy.scope == Scope::Runner { LONG_POLL } else { DEADLINE };
    let call = upstream.request_within(&ctx, bytes, deadline)?;
    client.ready().await?;
    let answer = tokio::time::timeout(deadline, client.unary(call, path, RawCodec)).await;
    let late = |_| {
        Error::new(Code::DeadlineExceeded, "It took too long; look whether it happened before you repeat it.")
    };
    let answer = answer.map_err(late)??.into_inner();
    let etag = route.etag.and_then(|number| plan::text_field(&answer, number)).map(|t| format!("\"{t}\""));
    let json = match route.plan.as_ref().and_then(|plan| plan.write(&answer)) {
        Some(json) => json,
        None => response::to_json(&response::decode(route.method.output(), answer)?).into_bytes(),
    };
    let mut response = Response::new(Body::from(json));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(etag) = etag.and_then(|t| HeaderValue::from_str(&t).ok()) {
        headers.insert(header::ETAG, etag);
    }
    Ok(problem::finish(response, request_id))
}

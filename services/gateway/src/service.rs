//! One request, from its first byte to its last.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, Method, header};
use ipnet::IpNet;
use nitejar_common::RequestCtx;
use nitejar_common::clock::SharedClock;
use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::trace;
use nitejar_common::id::RequestId;
use nitejar_proto::common::v1::RawBody;
use nitejar_proto::policy::Scope;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Histogram;
use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor};
use tracing::Instrument as _;

use crate::admission::{Asked, Told, Way};
use crate::authn::Session;
use crate::authn::cache::Credentials;
use crate::bodies::Bodies;
use crate::denials::Denials;
use crate::finish::Finished;
use crate::limits::Limits;
use crate::meter::Meter;
use crate::own_key::OwnKey;
use crate::page_tokens::PageTokens;
use crate::shedding::{Place, Shedding};
use crate::transcode::routes::{Match, Route, Routes, Source};
use crate::transcode::{plan, request, response, stream};
use crate::upstreams::Services;
use crate::webhooks::Doors;
use crate::{address, admission, body, call, cookies, idempotency, problem, slugs, support};

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
    /// Webhooks are large, and anybody's until a service has looked at them.
    pub(crate) webhooks: Doors,
    /// Those of all other requests, while they arrive.
    pub(crate) bodies: Bodies,
    pub(crate) limits: Arc<Limits>,
    /// Requests and streams under way.
    pub(crate) requests: Shedding,
    pub(crate) streams: Shedding,
    pub(crate) page_tokens: PageTokens,
    /// Makes of a session's lasting value one that tenancy's database does not have.
    pub(crate) lasting: OwnKey,
    pub(crate) trusted_proxies: Vec<IpNet>,
}

/// Counts and times.
pub(crate) struct Metrics {
    seconds: Histogram<f64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = opentelemetry::global::meter("nitejar");
        Self {
            seconds: meter
                .f64_histogram("http_request_seconds")
                .with_description("Requests by RPC and status, and how long they took")
                .with_unit("s")
                .build(),
        }
    }
}

pub(crate) async fn handle(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    let began = std::time::Instant::now();
    let request_id = RequestId::new(&*gateway.clock).to_string();
    let mut rpc: &'static str = "unknown";
    let mut told = Told::default();
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
            // A client that goes away must not reset our calls, for resets in bursts break the connections that all others
            // share. And what was begun is finished.
            // Boxed where it is made: it is large, and each combinator around it would move it.
            let work = Box::pin(async move {
                let mut told = Told::default();
                let answer = serve(&gateway, route, variables, request, &id, &mut told).await;
                (answer, told)
            });
            let (answer, known) = Finished::new(work.instrument(span))
                .await
                .unwrap_or_else(|error| (Err(error), Told::default()));
            told = known;
            answer
        }
    };
    let mut response = answer.unwrap_or_else(|error| problem::response(&error, &request_id));
    told.write(response.headers_mut());
    let labels = [KeyValue::new("rpc", rpc), KeyValue::new("status", i64::from(response.status().as_u16()))];
    gateway.metrics.seconds.record(began.elapsed().as_secs_f64(), &labels);
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
    told: &mut Told,
) -> Result<Response> {
    let policy = route.policy;
    let org = variables.iter().find(|(name, _)| name == "org_id").map(|(_, value)| value.as_str());
    let address = address::of_request(&http, &gateway.trusted_proxies);
    let (head, body) = http.into_parts();
    let asked =
        Asked { route: &route, method: &head.method, headers: &head.headers, address, org, request_id };
    let mut ctx = match admission::admit(gateway, asked, told).await? {
        Way::In(ctx) => ctx,
        Way::To(org) => return slugs::redirect(&head.uri, &org, request_id),
    };
    if let Some(tenant) = &ctx.tenant {
        tracing::Span::current().record("tenant", tenant.as_str());
    }
    let takes_body = policy.http.as_ref().is_some_and(|h| !h.body.is_empty());
    let began = std::time::Instant::now();
    // Most requests have none.
    let mut room = (!body.is_end_stream()).then(|| gateway.bodies.enter(address)).transpose()?;
    let grow = |bytes| room.as_mut().map_or(Ok(()), |room| room.grow(bytes));
    let json = body::read_json(&head.headers, body, takes_body, grow).await?;
    drop(room);
    if began.elapsed() > RECHECK {
        // The credential may have ended while its body was on the way.
        ctx = admission::still_may(gateway, asked, told.session.as_ref()).await?;
    }
    let filled = fill(&route, &head.headers, address);
    let filled = request::Headers {
        filled: &filled,
        if_match: condition(&head.headers, &header::IF_MATCH)?,
        last_event_id: condition(&head.headers, &LAST_EVENT_ID)?,
    };
    let query = head.uri.query().unwrap_or_default();
    let path = head.uri.path_and_query().map_or("", |p| p.as_str());
    ctx.idempotency = {
        let lasting = told.session.as_ref().map(|session| &*session.lasting);
        idempotency::of_request(&route, &head.headers, path, json.as_ref(), lasting)?
    };
    let message = request::build(&route, &variables, query, filled, json)?;
    // A place first: who is sent away is not charged. A runner's calls wait for work: runners bound their number.
    let streams = route.method.is_server_streaming();
    let place = match policy.scope {
        Scope::Runner => None,
        _ if streams => Some(gateway.streams.enter(ctx.tenant.as_ref())?),
        _ => Some(gateway.requests.enter(ctx.tenant.as_ref())?),
    };
    if let Some(grant) = &told.grant {
        support::record(gateway, &ctx, &policy.path, head.uri.path(), grant).await?;
    } else if policy.metered {
        gateway.meter.spend(ctx.tenant()?).await?;
    }
    let answer = if streams {
        let check = still_may(gateway, &route, head.headers, address, org, request_id, told.session.clone());
        Box::pin(open_stream(gateway, &route, &ctx, message, check, place)).await
    } else {
        send(gateway, &route, &ctx, message).await
    };
    answer.inspect_err(|error| gateway.denials.note_answer(&ctx, &policy.path, error))
}

/// Asks again, as often as it is called, whether the request may still go on.
fn still_may(
    gateway: &Arc<Gateway>,
    route: &Arc<Route>,
    headers: HeaderMap,
    address: IpAddr,
    org: Option<&str>,
    id: &str,
    session: Option<Session>,
) -> stream::Check {
    let (gateway, route) = (Arc::clone(gateway), Arc::clone(route));
    let kept = Arc::new((headers, org.map(str::to_owned), id.to_owned(), session));
    Box::new(move || {
        let (gateway, route, kept) = (Arc::clone(&gateway), Arc::clone(&route), Arc::clone(&kept));
        Box::pin(async move {
            let (headers, org, request_id, session) = &*kept;
            let method = &Method::GET;
            let asked = Asked { route: &route, method, headers, address, org: org.as_deref(), request_id };
            admission::still_may(&gateway, asked, session.as_ref()).await.map(drop)
        })
    })
}

async fn open_stream(
    gateway: &Gateway,
    route: &Route,
    ctx: &RequestCtx,
    message: DynamicMessage,
    check: stream::Check,
    place: Option<Place>,
) -> Result<Response> {
    let policy = route.policy;
    let (upstream, breaker) = gateway.services.get(policy.upstream())?;
    let answer = call::stream(upstream, breaker, policy, ctx, message.encode_to_vec().into()).await?;
    let body = stream::body(answer, route.method.output(), check, place, ctx.request_id.clone());
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(problem::finish(response, &ctx.request_id))
}

/// The fields that we fill, as far as there is something to fill them with.
fn fill(route: &Route, headers: &HeaderMap, address: IpAddr) -> Vec<(FieldDescriptor, String)> {
    let value = |source: &Source| match source {
        Source::Cookie(name) => cookies::get(headers, name).map(|text| text.chars().take(100).collect()),
        Source::Address => Some(address.to_string()),
        Source::UserAgent => {
            header_text(headers, &header::USER_AGENT).map(|text| text.chars().take(300).collect())
        }
    };
    route.filled.iter().filter_map(|(field, source)| Some((field.clone(), value(source)?))).collect()
}

/// A header that decides what happens: one that can't be read must not be taken for none.
fn condition<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Result<Option<&'a str>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().map_err(|_| {
        let name = if *name == header::IF_MATCH { "If-Match" } else { "Last-Event-ID" };
        Error::invalid(format!("/{name}"), "must be visible ASCII characters")
    });
    text.map(Some)
}

fn header_text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// An answer that leaves as it is.
fn raw(answer: bytes::Bytes, request_id: &str) -> Result<Response> {
    let answer = RawBody::decode(answer)?;
    let mut response = Response::new(Body::from(answer.content));
    let kind = HeaderValue::from_str(&answer.content_type)?;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(problem::finish(response, request_id))
}

async fn send(
    gateway: &Gateway,
    route: &Route,
    ctx: &RequestCtx,
    mut message: DynamicMessage,
) -> Result<Response> {
    let policy = route.policy;
    let list = gateway.page_tokens.open(route, ctx, &mut message)?;
    let (upstream, breaker) = gateway.services.get(policy.upstream())?;
    let answer = call::unary(upstream, breaker, policy, ctx, message.encode_to_vec().into()).await?;
    let replayed = answer.metadata().contains_key(nitejar_common::idempotency::REPLAYED);
    let mut answer = answer.into_inner();
    if let Some(list) = list {
        answer = list.sign(route, answer);
    }
    if route.raw {
        return raw(answer, &ctx.request_id);
    }
    let etag = route.etag.and_then(|number| plan::text_field(&answer, number)).map(|t| format!("\"{t}\""));
    let mut cookie_values = route
        .cookies
        .iter()
        .map(|c| plan::text_field(&answer, c.number).unwrap_or_default().to_owned())
        .collect::<Vec<_>>()
        .into_iter();
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
    for cookie in &route.cookies {
        let value = cookie_values.next().unwrap_or_default();
        headers.append(header::SET_COOKIE, cookies::set(&cookie.name, &value, cookie.seconds)?);
    }
    if replayed {
        headers.insert(idempotency::REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(problem::finish(response, &ctx.request_id))
}

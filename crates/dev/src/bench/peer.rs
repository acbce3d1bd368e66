//! The processes that a bench of the gateway compares with, each alone in its own: their CPU time must not mix.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{Method, StatusCode, Uri, header};
use nitejar_common::clock::SystemClock;
use nitejar_common::id::{AgentId, SpriteId};
use nitejar_common::time::to_proto;
use nitejar_gateway::transcode::codec::RawCodec;
use nitejar_gateway::transcode::routes::{Match, Routes};
use nitejar_gateway::transcode::{plan, request, response};
use nitejar_proto::sprites::v1 as pb;
use nitejar_proto::sprites::v1::agents_server::{Agents, AgentsServer};
use prost::Message as _;
use serde_json::Value;
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::{Status, async_trait};

/// Flags of a peer.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// `upstream`: a service without a database. `bare`: a transcoder without any check. `axum`: the same JSON and no more.
    #[arg(value_parser = ["upstream", "bare", "axum"])]
    kind: String,
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// The bare transcoder's upstream.
    #[arg(long, default_value = "http://127.0.0.1:1")]
    upstream: String,
}

/// Runs until it is killed.
pub async fn run(args: Args) -> Result<()> {
    if args.kind == "upstream" {
        let mut server = tonic::transport::Server::builder().tcp_nodelay(true);
        return Ok(server.add_service(AgentsServer::new(Fixed::new())).serve(args.listen).await?);
    }
    let router = if args.kind == "bare" {
        let channel = tonic::transport::Endpoint::from_shared(args.upstream)?.connect_lazy();
        let shared = Arc::new((Routes::new(), channel));
        Router::new().fallback(bare).with_state(shared)
    } else {
        let fixed = Fixed::new();
        let (one, list) = (json("Agent", &fixed.one)?, json("ListAgentsResponse", &fixed.list())?);
        Router::new().fallback(axum_alone).with_state(Arc::new((one, list)))
    };
    let listener = TcpListener::bind(args.listen).await?;
    Ok(axum::serve(listener, router).await?)
}

fn json(message: &str, value: &impl prost::Message) -> Result<Value> {
    let descriptor = nitejar_proto::POOL.get_message_by_name(&format!("nitejar.sprites.v1.{message}"));
    let descriptor = descriptor.ok_or_else(|| anyhow!("no message {message}"))?;
    let message =
        response::decode(descriptor, value.encode_to_vec().into()).map_err(|e| anyhow!(e.log_text()))?;
    Ok(serde_json::from_str(&response::to_json(&message))?)
}

/// Writes the same JSON for each request, from a value in memory.
async fn axum_alone(State(values): State<Arc<(Value, Value)>>, uri: Uri) -> Response {
    let value = if uri.path().ends_with("/agents") { &values.1 } else { &values.0 };
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// Route, transcode, call, transcode: no credential, no permission, no quota, no ids, no traces.
async fn bare(State(shared): State<Arc<(Routes, Channel)>>, verb: Method, uri: Uri) -> Response {
    match transcode(&shared.0, shared.1.clone(), &verb, &uri).await {
        Some(json) => ([(header::CONTENT_TYPE, "application/json")], Body::from(json)).into_response(),
        None => StatusCode::BAD_GATEWAY.into_response(),
    }
}

async fn transcode(routes: &Routes, channel: Channel, verb: &Method, uri: &Uri) -> Option<Vec<u8>> {
    let Match::Found(route, variables) = routes.find(verb.as_str(), uri.path()) else { return None };
    let query = uri.query().unwrap_or_default();
    let message = request::build(route, &variables, query, request::Headers::default(), None).ok()?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.ok()?;
    let path = http::uri::PathAndQuery::from_static(&route.policy.path);
    let call = tonic::Request::new(Bytes::from(message.encode_to_vec()));
    let answer = client.unary(call, path, RawCodec).await.ok()?.into_inner();
    let _etag = route.etag.and_then(|number| plan::text_field(&answer, number));
    route.plan.as_ref()?.write(&answer)
}

/// A service that always says the same.
struct Fixed {
    one: pb::Agent,
}

impl Fixed {
    fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "a bench has the machine's clock")]
        let now = Some(to_proto(chrono::Utc::now()));
        let sprite = pb::Sprite {
            id: SpriteId::new(&SystemClock).to_string(),
            state: "stopped".into(),
            provider: "local".into(),
            changed_at: now,
            ..pb::Sprite::default()
        };
        let one = pb::Agent {
            id: AgentId::new(&SystemClock).to_string(),
            handle: "worker".into(),
            name: "Worker".into(),
            state: "active".into(),
            config: Some(pb::AgentConfig { command: "echo hello".into(), ..pb::AgentConfig::default() }),
            sprite: Some(sprite),
            created_at: now,
            ..pb::Agent::default()
        };
        Self { one }
    }

    fn list(&self) -> pb::ListAgentsResponse {
        pb::ListAgentsResponse { agents: vec![self.one.clone(); 50], ..pb::ListAgentsResponse::default() }
    }
}

macro_rules! agents {
    ($($method:ident($request:ident) -> $response:ident = $answer:expr;)*) => {
        #[async_trait]
        impl Agents for Fixed {
            $(async fn $method(
                &self,
                _: tonic::Request<pb::$request>,
            ) -> Result<tonic::Response<pb::$response>, Status> {
                let answer: fn(&Self) -> Result<pb::$response, Status> = $answer;
                answer(self).map(tonic::Response::new)
            })*
        }
    };
}

fn nothing<T>(_: &Fixed) -> Result<T, Status> {
    Err(Status::unimplemented("not in this bench"))
}

agents! {
    get_agent(GetAgentRequest) -> Agent = |fixed| Ok(fixed.one.clone());
    list_agents(ListAgentsRequest) -> ListAgentsResponse = |fixed| Ok(fixed.list());
    create_agent(CreateAgentRequest) -> Agent = nothing;
    update_agent(UpdateAgentRequest) -> Agent = nothing;
    pause_agent(PauseAgentRequest) -> Agent = nothing;
    resume_agent(ResumeAgentRequest) -> Agent = nothing;
    delete_agent(DeleteAgentRequest) -> DeleteAgentResponse = nothing;
    list_sprites(ListSpritesRequest) -> ListSpritesResponse = nothing;
    list_secret_agents(ListSecretAgentsRequest) -> ListAgentsResponse = nothing;
}

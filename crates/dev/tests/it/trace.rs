//! One trace from the HTTP request through gateway, service and runner, seen by an OTLP receiver.

use std::sync::{Arc, Mutex};

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use nitejar_runtime::config::TelemetryConfig;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::json;

use crate::world::finished;

#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let spans =
            request.into_inner().resource_spans.into_iter().flat_map(|r| r.scope_spans).flat_map(|s| s.spans);
        self.0.lock().unwrap().extend(spans);
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

fn service(span: &Span) -> String {
    let found = span
        .attributes
        .iter()
        .find(|a| a.key == "service")
        .and_then(|a| a.value.clone())
        .and_then(|v| v.value);
    match found {
        Some(Any::StringValue(text)) => text,
        _ => String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_id_from_the_request_to_the_runner() {
    let receiver = Receiver::default();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(receiver.clone()))
            .serve(addr),
    );
    let telemetry = TelemetryConfig {
        otlp_endpoint: format!("http://{addr}"),
        log: "off".into(),
        log_format: "json".into(),
    };
    let guard = nitejar_runtime::telemetry::init("test", &telemetry).unwrap();

    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let config = json!({ "command": "echo $TRACEPARENT" });
    let agent = owner
        .post(&format!("/v1/orgs/{org}/agents"), &json!({ "handle": "worker", "config": config }))
        .await
        .unwrap();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request = owner
        .request(reqwest::Method::POST, &format!("/v1/orgs/{org}/work-items"))
        .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"))
        .json(&json!({ "agent_id": text(&agent, "id"), "title": "t" }));
    let item = Client::send(request).await.unwrap();
    let job = item.body["job_ids"][0].as_str().unwrap().to_owned();
    assert_eq!(finished(&owner, &org, &job).await["state"], "completed");
    let logs =
        owner.call(reqwest::Method::GET, &format!("/v1/orgs/{org}/jobs/{job}/logs"), None).await.unwrap();
    assert!(
        logs.body.as_str().unwrap().contains(trace),
        "the job itself can go on with the trace: {}",
        logs.body
    );
    stack.stop().await.unwrap();
    tokio::task::spawn_blocking(move || drop(guard)).await.unwrap();

    let spans = receiver.0.lock().unwrap().clone();
    let ours: Vec<&Span> = spans.iter().filter(|s| hex::encode(&s.trace_id) == trace).collect();
    let names: Vec<String> = ours.iter().map(|s| format!("{}:{}", service(s), s.name)).collect();
    for wanted in [
        "gateway:/nitejar.sprites.v1.WorkItems/CreateWorkItem",
        "sprites:/nitejar.sprites.v1.WorkItems/CreateWorkItem",
        "runner:job.run",
        "gateway:/nitejar.sprites.v1.Runner/CompleteJob",
    ] {
        assert!(names.iter().any(|n| n == wanted), "no {wanted} in {names:?}");
    }
}

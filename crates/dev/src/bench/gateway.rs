//! What a request through the gateway costs, beside the same without its checks, without the hop, and without anything.

use anyhow::Result;
use serde_json::{Value, json};

use super::load::{CONNECTIONS, Target, in_turns};
use super::setup::{AGENT, Peer, Setup};
use crate::client::text;

pub(super) async fn run() -> Result<Value> {
    let setup = Setup::start().await?;
    let Setup { owner, far, .. } = &setup;
    let agents = format!("/v1/orgs/{}/agents", setup.org);
    let (agent, listed) = (format!("{agents}/{AGENT}"), format!("{agents}?page_size=50"));
    let made = json!({ "handle": "worker", "config": { "command": "true" } });
    let real_agent = format!("{agents}/{}", text(&owner.post(&agents, &made).await?, "id"));

    let alone = Peer::start("axum", None)?;
    let bare_client = far.at(&setup.bare.url());
    let alone_client = far.at(&alone.url());
    let second = setup.second.pid("gateway")?;
    let (bare, alone_pid) = (setup.bare.pid()?, alone.pid()?);
    let upstream = &setup.upstream;
    let mut targets = vec![
        Target::http("a_get_with_postgres", owner, &real_agent, setup.split.pid("gateway")?),
        Target::http("b_get", far, &agent, second),
        Target::http("b_bare_transcoder", &bare_client, &agent, bare),
        Target::http("b_axum_alone", &alone_client, &agent, alone_pid),
        Target::http("c_list_of_50", far, &listed, second),
        Target::http("c_bare_transcoder", &bare_client, &listed, bare),
        Target::http("c_axum_alone", &alone_client, &agents, alone_pid),
        // The upstream's own cost: its method without any HTTP/JSON.
        Target::grpc("b_grpc_called_directly", upstream.url(), upstream.pid()?).await?,
    ];
    let nginx = Peer::nginx(setup.dir.path())?;
    if let Some(nginx) = &nginx {
        let client = far.at(&nginx.url());
        client.until_ok("/", 5).await?;
        targets.push(Target::http("nginx_return_200", &client, "/", nginx.pid()?));
    }
    alone_client.until_ok(&agent, 5).await?;
    let measured = in_turns(&targets).await?;

    let mut result = json!({ "connections": CONNECTIONS });
    for (name, m) in &measured {
        result[format!("{name}_req_per_s")] = json!(m.per_second.round());
        result[format!("{name}_p50_us")] = json!(m.p50_us);
        result[format!("{name}_p99_us")] = json!(m.p99_us);
        result[format!("{name}_cpu_us")] = json!((m.cpu_us * 10.0).round() / 10.0);
    }
    let ratio = |of: &str, to: &str| {
        let hundredths = (measured[of].cpu_us / measured[to].cpu_us * 100.0).round();
        json!(hundredths / 100.0)
    };
    result["b_gateway_to_bare_cpu"] = ratio("b_get", "b_bare_transcoder");
    result["b_gateway_to_axum_cpu"] = ratio("b_get", "b_axum_alone");
    result["b_gateway_to_grpc_directly_cpu"] = ratio("b_get", "b_grpc_called_directly");
    result["c_gateway_to_bare_cpu"] = ratio("c_list_of_50", "c_bare_transcoder");
    result["c_gateway_to_axum_cpu"] = ratio("c_list_of_50", "c_axum_alone");
    result["b_req_per_s_per_gateway_core"] = json!((1_000_000.0 / measured["b_get"].cpu_us).round());
    setup.stop().await;
    Ok(result)
}

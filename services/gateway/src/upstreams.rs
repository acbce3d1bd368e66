//! The services behind the gateway.

use std::sync::Arc;

use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::client::Upstream;
use nitejar_common::grpc::tls::Tls;
use nitejar_common::token::Signer;
use nitejar_runtime::config::Upstreams;

use crate::breaker::Breaker;

/// All four.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    pub(crate) tenancy: Upstream,
    pub(crate) sprites: Upstream,
    pub(crate) billing: Upstream,
    pub(crate) audit: Upstream,
    breakers: Arc<[Breaker; 4]>,
}

impl Services {
    pub(crate) fn new(uris: &Upstreams, signer: &Arc<Signer>, tls: Option<&Arc<Tls>>) -> Result<Self> {
        Ok(Self {
            tenancy: uris.open("tenancy", signer, tls)?,
            sprites: uris.open("sprites", signer, tls)?,
            billing: uris.open("billing", signer, tls)?,
            audit: uris.open("audit", signer, tls)?,
            breakers: Arc::default(),
        })
    }

    /// By the name that a policy gives, with its breaker.
    pub(crate) fn get(&self, name: &str) -> Result<(&Upstream, &Breaker)> {
        let all = [&self.tenancy, &self.sprites, &self.billing, &self.audit];
        let mut pairs = all.into_iter().zip(self.breakers.iter());
        let found = pairs.find(|(upstream, _)| upstream.name() == name);
        found.ok_or_else(|| Error::internal(format!("no service serves {name}")))
    }

    /// Whether a service accepts connections: its gRPC health is the RPC that needs no token.
    pub(crate) async fn healthy(&self, name: &str) -> Result<()> {
        let mut client = tonic::client::Grpc::new(self.get(name)?.0.channel());
        client.ready().await?;
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let request = tonic::Request::new(bytes::Bytes::new());
        let answer = client.unary(request, path, crate::transcode::codec::RawCodec).await?.into_inner();
        // Field 1, SERVING = 1.
        if answer.as_ref() == [8, 1] { Ok(()) } else { Err(Error::unavailable()) }
    }
}

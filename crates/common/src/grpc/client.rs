//! Calling another of our services.

use std::sync::Arc;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::tls::Tls;
use super::{REQUEST_ID_HEADER, TOKEN_HEADER, trace};
use crate::ctx::RequestCtx;
use crate::error::{Error, Result};
use crate::token::Signer;

/// The deadline of a call unless it is given another.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// One of our services as seen by another: a lazily connected channel, and the signer that speaks for the caller.
#[derive(Clone, Debug)]
pub struct Upstream {
    name: &'static str,
    channel: Channel,
    signer: Arc<Signer>,
}

impl Upstream {
    /// `uri`: `http://host:port`, also where `tls` is spoken. Connects when first used and again when the connection breaks.
    pub fn new(name: &'static str, uri: &str, signer: Arc<Signer>, tls: Option<Arc<Tls>>) -> Result<Self> {
        let endpoint = Endpoint::from_shared(uri.to_owned())?
            .connect_timeout(Duration::from_secs(3))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let channel = match tls {
            None => endpoint.connect_lazy(),
            Some(tls) => endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: http::Uri| {
                let tls = Arc::clone(&tls);
                async move {
                    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
                    tls.connect(name, &authority).await.map(hyper_util::rt::TokioIo::new)
                }
            })),
        };
        Ok(Self { name, channel, signer })
    }

    /// The service's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// For a generated client.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A request in the name of `ctx`, with the default deadline.
    pub fn request<T>(&self, ctx: &RequestCtx, message: T) -> Result<tonic::Request<T>> {
        self.request_within(ctx, message, DEADLINE)
    }

    /// A request in the name of `ctx` with a deadline of its own.
    pub fn request_within<T>(
        &self,
        ctx: &RequestCtx,
        message: T,
        deadline: Duration,
    ) -> Result<tonic::Request<T>> {
        let mut request = self.stream_request(ctx, message)?;
        request.set_timeout(deadline);
        Ok(request)
    }

    /// A request without a deadline, for streams.
    pub fn stream_request<T>(&self, ctx: &RequestCtx, message: T) -> Result<tonic::Request<T>> {
        let mut request = tonic::Request::new(message);
        let mut headers = std::mem::take(request.metadata_mut()).into_headers();
        // Once, for these and for those of tonic.
        headers.reserve(16);
        headers.insert(TOKEN_HEADER, self.signer.mint(ctx, self.name));
        headers.insert(REQUEST_ID_HEADER, ctx.request_id.parse().map_err(Error::from)?);
        trace::inject(&mut headers);
        *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
        Ok(request)
    }
}

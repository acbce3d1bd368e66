//! Calling another of our services.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tonic::transport::{Channel, Endpoint};

use super::tls::Tls;
use super::{REQUEST_ID_HEADER, TOKEN_HEADER, trace};
use crate::ctx::RequestCtx;
use crate::error::{Error, Result};
use crate::token::Signer;

/// The deadline of a call unless it is given another.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// How to reach a service, and the connection that is used now.
struct Connection {
    endpoint: Endpoint,
    tls: Option<Arc<Tls>>,
    /// New calls get a new connection after so long: it may reach another replica. Ended by us, between two calls, and not by
    /// the other side, who would meet calls that are just on their way.
    age: Duration,
    current: RwLock<Option<(Channel, Instant)>>,
}

/// One of our services as seen by another: a connection when one is needed, and the signer that speaks for the caller.
#[derive(Clone)]
pub struct Upstream {
    name: &'static str,
    connection: Arc<Connection>,
    signer: Arc<Signer>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upstream({})", self.name)
    }
}

impl Connection {
    fn open(&self, name: &'static str) -> Channel {
        let Some(tls) = self.tls.clone() else { return self.endpoint.connect_lazy() };
        self.endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: http::Uri| {
            let tls = Arc::clone(&tls);
            async move {
                let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
                tls.connect(name, &authority).await.map(hyper_util::rt::TokioIo::new)
            }
        }))
    }

    fn young(&self, current: Option<&(Channel, Instant)>) -> Option<Channel> {
        current.filter(|(_, since)| since.elapsed() < self.age).map(|(channel, _)| channel.clone())
    }
}

impl Upstream {
    /// `uri`: `http://host:port`, also where `tls` is spoken. Connects when first used, again when the connection breaks, and anew
    /// after `age`; what is under way on the old connection ends there.
    pub fn new(
        name: &'static str,
        uri: &str,
        age: Duration,
        signer: Arc<Signer>,
        tls: Option<Arc<Tls>>,
    ) -> Result<Self> {
        let endpoint = Endpoint::from_shared(uri.to_owned())?
            .connect_timeout(Duration::from_secs(3))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let connection = Arc::new(Connection { endpoint, tls, age, current: RwLock::default() });
        Ok(Self { name, connection, signer })
    }

    /// The service's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// For a generated client.
    pub fn channel(&self) -> Channel {
        let (name, connection) = (self.name, &*self.connection);
        let current = connection.current.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = connection.young(current.as_ref()) {
            return channel;
        }
        drop(current);
        let mut current = connection.current.write().unwrap_or_else(PoisonError::into_inner);
        // Another call may have been faster.
        connection.young(current.as_ref()).unwrap_or_else(|| {
            let channel = connection.open(name);
            *current = Some((channel.clone(), Instant::now()));
            channel
        })
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tower::ServiceExt as _;

    use super::*;
    use crate::clock::system;
    use crate::token::generate_key;

    #[tokio::test]
    async fn a_connection_is_used_until_its_age_and_then_there_is_a_new_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let signer = Signer::new("gateway", &generate_key().0, system()).unwrap();
        let upstream = |age| Upstream::new("tenancy", &uri, age, Arc::clone(&signer), None).unwrap();
        let call = |upstream: &Upstream| {
            let request = http::Request::get("/x").body(tonic::body::Body::empty()).unwrap();
            tokio::spawn(upstream.channel().oneshot(request))
        };
        let short = upstream(Duration::ZERO);
        let mut connections = Vec::new();
        for _ in 0..3 {
            call(&short);
            connections.push(listener.accept().await.unwrap());
        }
        let long = upstream(Duration::from_secs(3_600));
        call(&long);
        connections.push(listener.accept().await.unwrap());
        call(&long);
        let another = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
        assert!(another.is_err(), "a second connection");
    }
}

//! A server stream as server-sent events.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use nitejar_common::error::Result;
use prost_reflect::{MessageDescriptor, Value};
use tonic::Streaming;

use super::response;

/// A comment keeps proxies from closing a quiet stream.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How often it is asked whether the reader may still read.
const CHECK: Duration = Duration::from_secs(1);

/// Whether the reader may still read.
pub type Check = Box<dyn Fn() -> BoxFuture<'static, Result<()>> + Send>;

/// Each message one event, with its `sequence` as id. An error in mid-stream is an event too: the status line is gone.
/// Dropping the body drops the upstream stream, which cancels it there, and gives back its `place`.
pub fn body(
    upstream: Streaming<Bytes>,
    descriptor: MessageDescriptor,
    check: Check,
    place: impl Send + 'static,
    request_id: String,
) -> Body {
    let now = Instant::now();
    let place = Box::new(place);
    let state = Events { upstream, descriptor, check, _place: place, request_id, checked: now, spoke: now };
    let events = stream::unfold(Some(state), async |state| state?.next().await);
    Body::from_stream(events.map(Ok::<Bytes, Infallible>))
}

struct Events {
    upstream: Streaming<Bytes>,
    descriptor: MessageDescriptor,
    check: Check,
    /// Held for as long as the stream lives.
    _place: Box<dyn Send>,
    request_id: String,
    checked: Instant,
    spoke: Instant,
}

impl Events {
    /// The next piece of the body, and whether there is more.
    async fn next(mut self) -> Option<(Bytes, Option<Self>)> {
        match self.piece().await {
            Ok(None) => None,
            Ok(Some(piece)) => {
                self.spoke = Instant::now();
                Some((piece, Some(self)))
            }
            Err(error) => {
                let problem = error.problem(&self.request_id);
                Some((Bytes::from(format!("event: error\ndata: {problem}\n\n")), None))
            }
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.checked.elapsed() >= CHECK {
                (self.check)().await?;
                self.checked = Instant::now();
            }
            match tokio::time::timeout(CHECK, self.upstream.next()).await {
                Ok(None) => return Ok(None),
                Ok(Some(message)) => return event(message?, self.descriptor.clone()).map(Some),
                Err(_) if self.spoke.elapsed() >= HEARTBEAT => {
                    return Ok(Some(Bytes::from_static(b": still here\n\n")));
                }
                Err(_) => {}
            }
        }
    }
}

fn event(message: Bytes, descriptor: MessageDescriptor) -> Result<Bytes> {
    let message = response::decode(descriptor, message)?;
    let id = match message.get_field_by_name("sequence").as_deref() {
        Some(Value::I64(n)) => format!("id: {n}\n"),
        _ => String::new(),
    };
    // Our JSON holds no raw line end, so one `data:` line is enough.
    Ok(Bytes::from(format!("{id}data: {}\n\n", response::to_json(&message))))
}

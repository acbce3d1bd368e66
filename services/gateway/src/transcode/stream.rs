//! A server stream as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _};
use nitejar_common::error::Error;
use prost_reflect::{MessageDescriptor, Value};
use tonic::Streaming;

use super::response;

/// A comment keeps proxies from closing a quiet stream.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Each message one event, with its `sequence` as id. An error in mid-stream is an event too: the status line is gone.
/// Dropping the body drops the upstream stream, which cancels it there.
pub fn body(upstream: Streaming<Bytes>, descriptor: MessageDescriptor, request_id: String) -> Body {
    Body::from_stream(events(upstream, descriptor, request_id).map(Ok::<Bytes, Infallible>))
}

fn events(
    upstream: Streaming<Bytes>,
    descriptor: MessageDescriptor,
    request_id: String,
) -> impl Stream<Item = Bytes> {
    stream::unfold(Some(upstream), move |state| {
        let (descriptor, request_id) = (descriptor.clone(), request_id.clone());
        async move {
            let mut upstream = state?;
            let next = tokio::time::timeout(HEARTBEAT, upstream.next()).await;
            match next {
                Err(_) => Some((Bytes::from_static(b": still here\n\n"), Some(upstream))),
                Ok(None) => None,
                Ok(Some(message)) => match message.map_err(Error::from).and_then(|m| event(m, descriptor)) {
                    Ok(event) => Some((event, Some(upstream))),
                    Err(error) => {
                        let problem = error.problem(&request_id);
                        Some((Bytes::from(format!("event: error\ndata: {problem}\n\n")), None))
                    }
                },
            }
        }
    })
}

fn event(message: Bytes, descriptor: MessageDescriptor) -> nitejar_common::Result<Bytes> {
    let message = response::decode(descriptor, message)?;
    let id = match message.get_field_by_name("sequence").as_deref() {
        Some(Value::I64(n)) => format!("id: {n}\n"),
        _ => String::new(),
    };
    // Our JSON holds no raw line end, so one `data:` line is enough.
    Ok(Bytes::from(format!("{id}data: {}\n\n", response::to_json(&message))))
}

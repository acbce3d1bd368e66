//! Reading a request's body, within its bounds.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use nitejar_common::error::{Code, Error, Result};

use crate::transcode::json;

/// The largest body of an API request.
const LARGEST: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY: Duration = Duration::from_secs(20);

/// The JSON of a body; none where the request takes none.
pub(crate) async fn read_json(
    headers: &HeaderMap,
    body: Body,
    takes_body: bool,
    room: impl FnMut(usize) -> Result<()>,
) -> Result<Option<json::Node>> {
    let body = read(headers, body, LARGEST, room).await?;
    if !takes_body {
        return if body.is_empty() {
            Ok(None)
        } else {
            Err(Error::new(Code::MalformedBody, "This request takes no body."))
        };
    }
    if body.is_empty() {
        return Ok(Some(json::Node::Object(Vec::new())));
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Error::new(
            Code::UnsupportedMediaType,
            "Send the body with Content-Type: application/json.",
        ));
    }
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Error::new(Code::UnsupportedMediaType, "Send the body without Content-Encoding."));
    }
    json::parse(&body)
        .map(Some)
        .map_err(|why| Error::new(Code::MalformedBody, format!("The body is not JSON: {why}.")))
}

/// Reads a body, and stops reading as soon as it is too large, or as `room` refuses the bytes of memory that it takes so far.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    largest: usize,
    mut room: impl FnMut(usize) -> Result<()>,
) -> Result<Bytes> {
    let too_large =
        || Error::new(Code::PayloadTooLarge, format!("The body may have at most {largest} bytes."));
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > largest) {
        drain(&mut body).await;
        return Err(too_large());
    }
    let mut bytes = BytesMut::new();
    let deadline = tokio::time::Instant::now() + BODY;
    // A client that sends a byte a minute would hold its memory for ever.
    let slow = |_| Error::new(Code::MalformedBody, "The body took too long to arrive.");
    while let Some(frame) = tokio::time::timeout_at(deadline, body.frame()).await.map_err(slow)? {
        let frame = frame.map_err(|_| Error::new(Code::MalformedBody, "The body broke off."))?;
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > largest {
                drain(&mut body).await;
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
            room(bytes.capacity())?;
        }
    }
    Ok(bytes.freeze())
}

/// Reads on for a while and forgets it: a client that is still writing would see a broken connection, not our answer.
async fn drain(body: &mut Body) {
    let mut left: usize = 32 << 20;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), reading).await;
}

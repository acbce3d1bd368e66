//! What was left of a request's body when its answer was there: a refusal comes before the body is read.
//!
//! The server closes a connection whose request was not read to its end, and whoever meant to use it again sees it break,
//! perhaps in the middle of the next request. So the rest is read, within bounds, and where it does not end in them, the
//! answer says that the connection does.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tower::ServiceExt as _;

/// So much of it is read: what a request of the API may have.
const LARGEST: usize = 1 << 20;
/// And so long.
const LONGEST: Duration = Duration::from_secs(1);

/// A body that comes back when nobody wants more of it and it has not ended.
struct Lent {
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        // Of one that broke there is nothing to read either.
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| !body.is_end_stream());
        if let (Some(rest), Some(back)) = (rest, self.back.take()) {
            let _ = back.send(rest);
        }
    }
}

/// The router's answer, once the request was read to its end or the answer says that it was not.
pub(crate) async fn answer(router: Router, request: Request<Incoming>) -> Result<Response, Infallible> {
    // Most requests have none.
    if request.body().is_end_stream() {
        return router.oneshot(request.map(Body::new)).await;
    }
    // Who waits to be asked for the body and was refused instead need not send it.
    let waits = request.headers().contains_key(header::EXPECT);
    let (back, mut comes) = oneshot::channel();
    let request = request.map(|body| Body::new(Lent { body: Some(body), back: Some(back) }));
    let mut response = router.oneshot(request).await?;
    let ended = match comes.try_recv() {
        Ok(rest) => !waits && ends(rest).await,
        Err(TryRecvError::Closed) => true,
        // Somebody has it still: an answer that began before its request was whole.
        Err(TryRecvError::Empty) => false,
    };
    if !ended {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// Reads the rest and forgets it; whether it ended within the bounds.
async fn ends(mut body: Incoming) -> bool {
    let reading = async {
        let mut left = LARGEST;
        while let Some(Ok(frame)) = body.frame().await {
            let read = frame.data_ref().map_or(0, Bytes::len);
            if read > left {
                return false;
            }
            left -= read;
        }
        true
    };
    tokio::time::timeout(LONGEST, reading).await.unwrap_or(false)
}

//! Calling the service that answers: with a deadline, behind its breaker, and again where that is harmless.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::client::Upstream;
use nitejar_proto::policy::{MethodPolicy, Scope};
use tonic::Status;

use crate::breaker::Breaker;
use crate::transcode::codec::RawCodec;

/// The deadline of a call.
const DEADLINE: Duration = Duration::from_secs(30);
/// A runner's long poll takes longer.
const LONG_POLL: Duration = Duration::from_secs(40);
/// Tries of a call that may be repeated.
const TRIES: u32 = 3;
/// The largest answer.
const LARGEST: usize = 16 << 20;

/// How a call failed.
enum Failed {
    /// The connection broke, or there was none: it may have happened or not.
    Transport(Error),
    /// It did not answer in time.
    Late,
    /// The service says no.
    Answered(Error),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        // What is not the service's own word has a cause below it.
        match std::error::Error::source(&status).is_some() {
            true => Self::Transport(status.into()),
            false => Self::Answered(status.into()),
        }
    }
}

/// What an internal call answers that is harmless to repeat: again, twice at most, when a connection broke under it.
pub(crate) async fn repeated<T, F>(mut call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let mut tries = 0;
    loop {
        tries += 1;
        match call().await.map_err(Failed::from) {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(Failed::Transport(_)) if tries < TRIES => apart(tries).await,
            Err(Failed::Transport(error) | Failed::Answered(error)) => return Err(error),
            Err(Failed::Late) => return Err(Error::unavailable()),
        }
    }
}

/// So that all that failed together does not come back together.
async fn apart(tries: u32) {
    let millis = 20 * u64::from(tries) + nitejar_common::rng::below(60);
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// The service's answer.
pub(crate) async fn unary(
    upstream: &Upstream,
    breaker: &Breaker,
    policy: &'static MethodPolicy,
    ctx: &RequestCtx,
    message: Bytes,
) -> Result<tonic::Response<Bytes>> {
    let deadline = if policy.scope == Scope::Runner { LONG_POLL } else { DEADLINE };
    let until = Instant::now() + deadline;
    let mut tries = 0;
    loop {
        tries += 1;
        breaker.enter(Instant::now())?;
        let left = until.saturating_duration_since(Instant::now());
        let result = once(upstream, policy, ctx, message.clone(), left).await;
        breaker.leave(matches!(result, Ok(_) | Err(Failed::Answered(_))), Instant::now());
        match result {
            Ok(answer) => return Ok(answer),
            Err(Failed::Answered(error)) => return Err(error),
            Err(Failed::Late) => {
                let text = "It took too long; look whether it happened before you repeat it.";
                return Err(Error::new(Code::DeadlineExceeded, text));
            }
            Err(Failed::Transport(error)) => {
                if !policy.idempotent || tries >= TRIES || !breaker.may_retry() {
                    return Err(error);
                }
                apart(tries).await;
            }
        }
    }
}

async fn once(
    upstream: &Upstream,
    policy: &'static MethodPolicy,
    ctx: &RequestCtx,
    message: Bytes,
    left: Duration,
) -> Result<tonic::Response<Bytes>, Failed> {
    let mut client = tonic::client::Grpc::new(upstream.channel()).max_decoding_message_size(LARGEST);
    // The service gets the same deadline and gives up with us.
    let mut call = upstream.request_within(ctx, message, left).map_err(Failed::Answered)?;
    if let Some(idempotency) = &ctx.idempotency {
        idempotency.attach(&mut call);
    }
    let path = PathAndQuery::from_static(&policy.path);
    let answer = async {
        client.ready().await.map_err(|error| Failed::Transport(Error::unavailable().because(error)))?;
        client.unary(call, path, RawCodec).await.map_err(Failed::from)
    };
    tokio::time::timeout(left, answer).await.map_err(|_| Failed::Late)?
}

/// The beginning of a stream.
pub(crate) async fn stream(
    upstream: &Upstream,
    breaker: &Breaker,
    policy: &'static MethodPolicy,
    ctx: &RequestCtx,
    message: Bytes,
) -> Result<tonic::Streaming<Bytes>> {
    breaker.enter(Instant::now())?;
    let mut client = tonic::client::Grpc::new(upstream.channel());
    let call = upstream.stream_request(ctx, message)?;
    let path = PathAndQuery::from_static(&policy.path);
    let begun = async {
        client.ready().await.map_err(|error| Failed::Transport(Error::unavailable().because(error)))?;
        client.server_streaming(call, path, RawCodec).await.map_err(Failed::from)
    };
    let begun = tokio::time::timeout(DEADLINE, begun).await.map_err(|_| Failed::Late).and_then(|begun| begun);
    breaker.leave(matches!(begun, Ok(_) | Err(Failed::Answered(_))), Instant::now());
    match begun {
        Ok(answer) => Ok(answer.into_inner()),
        Err(Failed::Answered(error) | Failed::Transport(error)) => Err(error),
        Err(Failed::Late) => {
            Err(Error::new(Code::DeadlineExceeded, "The stream did not begin in time. Try again."))
        }
    }
}

//! The reply: a comment on the issue or pull request, through the outbox, once.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use nitejar_common::RequestCtx;
use nitejar_common::clock::Clock;
use nitejar_common::error::{Code, Result};
use nitejar_db::outbox::{Deliver, Delivery, Failure, OutboxMessage};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::Github;

/// The outbox topic.
pub(crate) const TOPIC: &str = "github.comment";
/// GitHub takes 65,536 characters; the rest is for the marker.
const LONGEST: usize = 60_000;

/// Where a reply goes; kept with the work item.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    /// GitHub's number of the installation.
    pub(crate) installation_id: i64,
    /// GitHub's number of the repository: a name may move, the number does not.
    pub(crate) repository_id: u64,
    /// `owner/name`
    pub(crate) repository: String,
    /// Of the issue or pull request.
    pub(crate) number: u64,
}

#[derive(Serialize, Deserialize)]
struct Payload {
    target: Target,
    job: String,
    text: String,
}

/// What the comment says. A job that said nothing still tells how it ended.
pub(crate) fn text(output: &str, state: &str, reason: &str) -> String {
    let output = output.trim();
    if !output.is_empty() {
        return output.chars().take(LONGEST).collect();
    }
    match (state, reason) {
        ("completed", _) => "Done.".to_owned(),
        (_, "") => "The job failed.".to_owned(),
        (_, reason) => format!("The job failed: {reason}."),
    }
}

/// Notes a reply with the end of its job.
pub(crate) async fn push(
    conn: &mut PgConnection,
    ctx: &RequestCtx,
    clock: &dyn Clock,
    session: &str,
    to: &serde_json::Value,
    job: &str,
    text: &str,
) -> Result<()> {
    let target: Target = serde_json::from_value(to.clone())?;
    let payload = Payload { target, job: job.to_owned(), text: text.to_owned() };
    nitejar_db::outbox::push(conn, ctx, clock, TOPIC, session, &serde_json::to_vec(&payload)?).await
}

/// Delivers the topic.
pub(crate) struct Comments(Arc<Github>);

impl Comments {
    pub(crate) fn new(github: Arc<Github>) -> Arc<Self> {
        Arc::new(Self(github))
    }

    async fn send(&self, message: &OutboxMessage) -> Delivery {
        let payload: Payload = serde_json::from_slice(&message.payload).map_err(|e| Failure {
            detail: format!("unreadable: {e}"),
            permanent: true,
            retry_after: None,
        })?;
        let marker = format!("<!-- nitejar:{} -->", payload.job);
        self.0.comment_once(&payload.target, &marker, &payload.text).await.map_err(|error| {
            // An issue that is gone or locked stays so; everything else may pass.
            let gone = matches!(error.code(), Code::NotFound | Code::PermissionDenied);
            Failure { permanent: gone || error.code() == Code::InvalidArgument, ..Failure::from(error) }
        })
    }
}

impl Deliver for Comments {
    /// GitHub takes about a second for each.
    fn at_a_time(&self) -> usize {
        5
    }

    fn deliver<'a>(&'a self, _: &'a RequestCtx, batch: &'a [OutboxMessage]) -> BoxFuture<'a, Vec<Delivery>> {
        // GitHub asks for one writer at a time.
        Box::pin(async move {
            let mut results: Vec<Delivery> = Vec::with_capacity(batch.len());
            let mut held: Vec<(&str, Failure)> = Vec::new();
            for message in batch {
                // What follows a failed one of its key must not overtake it.
                let result = match held.iter().find(|(key, f)| *key == message.key && !f.permanent) {
                    Some((_, failure)) => Err(failure.clone()),
                    None => self.send(message).await,
                };
                if let Err(failure) = &result {
                    held.push((&message.key, failure.clone()));
                }
                results.push(result);
            }
            results
        })
    }
}

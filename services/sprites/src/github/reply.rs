//! The reply: a comment on the issue or pull request, through the outbox, once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use nitejar_common::RequestCtx;
use nitejar_common::clock::Clock;
use nitejar_common::error::{Code, Result};
use nitejar_db::Db;
use nitejar_db::outbox::{Deliver, Delivery, Failure, OutboxMessage};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::Github;
use crate::store::github as store;

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
pub(crate) struct Comments {
    github: Arc<Github>,
    db: Db,
}

/// A chunk ends after so long, well under the relay's lease: what is left comes again.
const ENOUGH: Duration = Duration::from_secs(5);

impl Comments {
    pub(crate) fn new(github: Arc<Github>, db: Db) -> Arc<Self> {
        Arc::new(Self { github, db })
    }

    async fn send(&self, ctx: &RequestCtx, message: &OutboxMessage) -> Delivery {
        let payload: Payload = serde_json::from_slice(&message.payload).map_err(|e| Failure {
            detail: format!("unreadable: {e}"),
            permanent: true,
            retry_after: None,
        })?;
        self.still_ours(ctx, &payload.target).await?;
        // The message's id: a job that is retried answers anew, a message that is delivered again does not.
        let marker = format!("<!-- nitejar:{}:{} -->", payload.job, message.id);
        let sent =
            self.github.comment_once(&payload.target, &marker, &payload.text, message.created_at).await;
        sent.map_err(|error| {
            // An issue that is gone or locked stays so; everything else may pass.
            let gone = matches!(error.code(), Code::NotFound | Code::PermissionDenied);
            Failure { permanent: gone || error.code() == Code::InvalidArgument, ..Failure::from(error) }
        })
    }

    /// The App could write through any installation: only this organization's own may be used, now.
    async fn still_ours(&self, ctx: &RequestCtx, target: &Target) -> Result<(), Failure> {
        let found = store::installation_anywhere(&self.db, target.installation_id);
        let owner = found.await.map_err(|e| Failure { permanent: false, ..Failure::from(e) })?;
        let ours = owner.is_some_and(|(org, suspended)| {
            !suspended && ctx.tenant.as_ref().is_some_and(|tenant| tenant.as_str() == org)
        });
        if ours {
            return Ok(());
        }
        let detail = "the installation is no longer connected to this organization".to_owned();
        Err(Failure { detail, permanent: true, retry_after: None })
    }
}

impl Deliver for Comments {
    /// GitHub takes about a second for each.
    fn at_a_time(&self) -> usize {
        5
    }

    fn deliver<'a>(
        &'a self,
        ctx: &'a RequestCtx,
        batch: &'a [OutboxMessage],
    ) -> BoxFuture<'a, Vec<Delivery>> {
        // GitHub asks for one writer at a time.
        Box::pin(async move {
            let began = tokio::time::Instant::now();
            let mut results: Vec<Delivery> = Vec::with_capacity(batch.len());
            for (i, message) in batch.iter().enumerate() {
                // What follows a failed one of its key must not overtake it.
                let held = batch[..i].iter().zip(&results).find_map(|(m, r)| match r {
                    Err(failure) if m.key == message.key && !failure.permanent => Some(failure.clone()),
                    _ => None,
                });
                match held {
                    Some(failure) => results.push(Err(failure)),
                    None if began.elapsed() > ENOUGH => break,
                    None => results.push(self.send(ctx, message).await),
                }
            }
            results
        })
    }
}

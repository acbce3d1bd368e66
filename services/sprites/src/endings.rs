//! Jobs come to an end, or go back to the queue: the one place that knows what goes with it. State, billing's unit, audit
//! event and reply commit together.

use std::collections::HashMap;

use nitejar_common::RequestCtx;
use nitejar_common::error::Result;
use nitejar_db::TenantTx;

use crate::Service;
use crate::domain::job::{Outcome, Quota, after};
use crate::store::queue::{self, Ending};
use crate::store::work_items;
use crate::{delivery, github};

/// How one attempt ended.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// `job_…`
    pub(crate) id: String,
    /// Its agent.
    pub(crate) agent_id: String,
    /// Its work item, when a reply may be due.
    pub(crate) work_item_id: String,
    /// Begun.
    pub(crate) attempts: i32,
    /// Allowed.
    pub(crate) max_attempts: i32,
    /// How.
    pub(crate) outcome: Outcome,
    /// Why.
    pub(crate) reason: String,
    /// The command's exit code.
    pub(crate) exit_code: Option<i32>,
    /// The reply.
    pub(crate) output: String,
}

impl Service {
    /// Ends attempts of jobs that are locked in this transaction.
    pub(crate) async fn end_attempts(
        &self,
        tx: &mut TenantTx,
        ctx: &RequestCtx,
        attempts: Vec<Attempt>,
    ) -> Result<()> {
        let now = self.clock.now();
        let (mut commit, mut release, mut events, mut endings) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut replies: HashMap<String, (String, String)> = HashMap::new();
        for a in attempts {
            let next = after(a.outcome, a.attempts, a.max_attempts);
            match next.quota {
                Quota::Commit => commit.push(a.id.clone()),
                Quota::Release => release.push(a.id.clone()),
                Quota::Keep => {}
            }
            let action = if next.wait.is_some() { "job.attempt_failed" } else { "job.finished" };
            let details = [
                ("state", next.state.to_owned()),
                ("reason", a.reason.clone()),
                ("attempt", a.attempts.to_string()),
                ("agent", a.agent_id.clone()),
            ];
            events.push(nitejar_db::audit::event(ctx, &*self.clock, action, ("job", &a.id), &details));
            if matches!(next.state, "completed" | "failed") && a.outcome != Outcome::Declined {
                replies.insert(
                    a.work_item_id,
                    (a.id.clone(), github::reply::text(&a.output, next.state, &a.reason)),
                );
            }
            endings.push(Ending {
                id: a.id,
                agent_id: a.agent_id,
                state: next.state.to_owned(),
                reason: a.reason,
                reserved: next.quota == Quota::Keep,
                exit_code: a.exit_code,
                output: a.output,
                run_at: next.wait.map(|wait| now + wait),
            });
        }
        queue::finish(tx.conn(), &endings, now).await?;
        delivery::push(tx.conn(), ctx, &*self.clock, delivery::COMMIT, &commit).await?;
        delivery::push(tx.conn(), ctx, &*self.clock, delivery::RELEASE, &release).await?;
        if !events.is_empty() {
            nitejar_db::audit::push_all(tx.conn(), ctx, &*self.clock, events).await?;
        }
        let items: Vec<String> = replies.keys().filter(|id| !id.is_empty()).cloned().collect();
        if !items.is_empty() {
            for item in work_items::by_ids(tx.conn(), &items).await? {
                if let (Some(to), Some((job, text))) = (&item.reply_to, replies.get(&item.id)) {
                    github::reply::push(tx.conn(), ctx, &*self.clock, &item.session_key, &to.0, job, text)
                        .await?;
                }
            }
        }
        Ok(())
    }
}

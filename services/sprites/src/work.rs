//! Work comes in: a work item and a job for each agent that takes it, together with their audit event.

use nitejar_common::RequestCtx;
use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::trace::current_traceparent;
use nitejar_common::id::JobId;
use nitejar_db::TenantTx;

use crate::Service;
use crate::domain::job::MAX_ATTEMPTS;
use crate::store::queue::NewJob;
use crate::store::work_items::WorkItemRow;
use crate::store::{queue, work_items};

/// What an intake came to.
#[derive(Debug)]
pub(crate) struct Intake {
    /// The work item; the first one's, when its key was known.
    pub(crate) item: WorkItemRow,
    /// Whether it is new.
    pub(crate) new: bool,
}

impl Service {
    /// Takes work in, in the caller's transaction. Call [`Self::taken_in`] after the commit.
    pub(crate) async fn take_in(
        &self,
        tx: &mut TenantTx,
        ctx: &RequestCtx,
        item: WorkItemRow,
        agents: &[String],
    ) -> Result<Intake> {
        if !work_items::insert(tx.conn(), &item).await? {
            let key = item.dedupe_key.unwrap_or_default();
            let first = work_items::by_key(tx.conn(), &key).await?;
            let item =
                first.ok_or_else(|| Error::internal("a work item with this key was there a moment ago"))?;
            return Ok(Intake { item, new: false });
        }
        let jobs: Vec<NewJob> = agents
            .iter()
            .map(|agent| NewJob {
                id: JobId::new(&*self.clock).to_string(),
                agent_id: agent.clone(),
                work_item_id: item.id.clone(),
            })
            .collect();
        let now = self.clock.now();
        queue::enqueue(tx.conn(), &jobs, MAX_ATTEMPTS, &current_traceparent(), &ctx.request_id, now).await?;
        let jobs: Vec<&str> = jobs.iter().map(|j| j.id.as_str()).collect();
        let details =
            [("source", item.source.clone()), ("event", item.event.clone()), ("jobs", jobs.join(","))];
        let target = ("work_item", item.id.as_str());
        nitejar_db::audit::push(tx.conn(), ctx, &*self.clock, "work_item.created", target, &details).await?;
        Ok(Intake { item, new: true })
    }

    /// Wakes the dispatcher.
    pub(crate) fn taken_in(&self) {
        self.enqueued.notify_one();
    }
}

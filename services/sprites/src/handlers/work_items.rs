//! Work items.

use std::collections::HashMap;

use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::id::WorkItemId;
use nitejar_common::page;
use nitejar_common::time::to_proto;
use nitejar_proto::sprites::v1 as pb;
use nitejar_proto::sprites::v1::work_items_server::WorkItems;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::store::agents;
use crate::store::work_items::{self, WorkItemRow};

#[tonic::async_trait]
impl WorkItems for Service {
    async fn create_work_item(
        &self,
        request: Request<pb::CreateWorkItemRequest>,
    ) -> Result<Response<pb::WorkItem>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        #[cfg(feature = "broken")]
        let ctx = self.trusting(ctx, &r.agent_id).await?;
        let id = WorkItemId::new(&*self.clock).to_string();
        let item = WorkItemRow {
            session_key: format!("api:{}", if r.dedupe_key.is_empty() { &id } else { &r.dedupe_key }),
            id,
            source: "api".into(),
            event: "manual".into(),
            // A prefix of its own: no caller can take the key of a GitHub delivery.
            dedupe_key: (!r.dedupe_key.is_empty()).then(|| format!("api:{}", r.dedupe_key)),
            title: r.title,
            body: r.body,
            sender: ctx.actor.id.clone(),
            url: String::new(),
            reply_to: None,
            created_at: self.clock.now(),
        };
        let mut tx = self.db.tenant(&ctx).await?;
        let agent = agents::hold(tx.conn(), &r.agent_id).await.map_err(Error::from)?;
        let agent = agent.ok_or_else(|| Error::not_found(format!("agent {}", r.agent_id)))?;
        if agent.config.command.is_empty() {
            return Err(Error::new(
                Code::Conflict,
                "This agent has no command yet. Set config.command first.",
            )
            .into());
        }
        let intake = self.take_in(&mut tx, &ctx, item, &[agent.id]).await?;
        let job_ids = work_items::jobs_of(tx.conn(), std::slice::from_ref(&intake.item.id))
            .await
            .map_err(Error::from)?;
        let new = intake.new;
        let item = to_pb(intake.item, job_ids.into_iter().map(|(_, job)| job).collect());
        let answer = tx.answer(item).await?;
        if new {
            self.taken_in();
        }
        Ok(answer)
    }

    async fn get_work_item(
        &self,
        request: Request<pb::GetWorkItemRequest>,
    ) -> Result<Response<pb::WorkItem>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().work_item_id;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let row = work_items::get(tx.conn(), id).await.map_err(Error::from)?;
        let row = row.ok_or_else(|| Error::not_found(format!("work item {id}")))?;
        let jobs = work_items::jobs_of(tx.conn(), std::slice::from_ref(id)).await.map_err(Error::from)?;
        tx.commit().await?;
        Ok(Response::new(to_pb(row, jobs.into_iter().map(|(_, job)| job).collect())))
    }

    async fn list_work_items(
        &self,
        request: Request<pb::ListWorkItemsRequest>,
    ) -> Result<Response<pb::ListWorkItemsResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let size = page::size(r.page_size, 50, 100);
        let before = page::after(&r.page_token)?;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let rows =
            work_items::list(tx.conn(), &r.session_key, &before, size + 1).await.map_err(Error::from)?;
        let (rows, next_page_token) = page::cut(rows, size, |w| w.id.clone());
        let ids: Vec<String> = rows.iter().map(|w| w.id.clone()).collect();
        let mut jobs: HashMap<String, Vec<String>> = HashMap::new();
        for (item, job) in work_items::jobs_of(tx.conn(), &ids).await.map_err(Error::from)? {
            jobs.entry(item).or_default().push(job);
        }
        tx.commit().await?;
        let work_items = rows.into_iter().map(|w| {
            let jobs = jobs.remove(&w.id).unwrap_or_default();
            to_pb(w, jobs)
        });
        Ok(Response::new(pb::ListWorkItemsResponse { work_items: work_items.collect(), next_page_token }))
    }
}

fn to_pb(w: WorkItemRow, job_ids: Vec<String>) -> pb::WorkItem {
    pb::WorkItem {
        id: w.id,
        source: w.source,
        event: w.event,
        session_key: w.session_key,
        title: w.title,
        body: w.body,
        sender: w.sender,
        url: w.url,
        job_ids,
        created_at: Some(to_proto(w.created_at)),
    }
}

#[cfg(feature = "broken")]
impl Service {
    /// What no handler may do: the organization of an id that came in the body. See the feature in `Cargo.toml`.
    async fn trusting(
        &self,
        ctx: nitejar_common::RequestCtx,
        agent: &str,
    ) -> Result<nitejar_common::RequestCtx> {
        let org = crate::store::sprites::org_of_agent(&mut *self.db.control_once().await?, agent).await?;
        Ok(match org {
            Some(org) => ctx.for_tenant(org.parse()?),
            None => ctx,
        })
    }
}

//! Jobs as people see them.

use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::page;
use nitejar_common::time::to_proto;
use nitejar_proto::sprites::v1 as pb;
use nitejar_proto::sprites::v1::jobs_server::Jobs;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::store::jobs::{self, Filter, JobRow};
use crate::store::{logs, queue};

#[tonic::async_trait]
impl Jobs for Service {
    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Result<Response<pb::Job>, Status> {
        let ctx = ctx(&request)?;
        Ok(Response::new(to_pb(self.job(&ctx, &request.get_ref().job_id).await?)))
    }

    async fn list_jobs(
        &self,
        request: Request<pb::ListJobsRequest>,
    ) -> Result<Response<pb::ListJobsResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let size = page::size(r.page_size, 50, 500);
        let before = page::after(&r.page_token)?;
        let filter = Filter { agent_id: r.agent_id, state: r.state, work_item_id: r.work_item_id };
        let mut tx = self.db.tenant_read(&ctx).await?;
        let rows = jobs::list(tx.conn(), &filter, &before, size + 1).await.map_err(Error::from)?;
        tx.commit().await?;
        let (rows, next_page_token) = page::cut(rows, size, |j| j.id.clone());
        Ok(Response::new(pb::ListJobsResponse {
            jobs: rows.into_iter().map(to_pb).collect(),
            next_page_token,
        }))
    }

    async fn cancel_job(&self, request: Request<pb::CancelJobRequest>) -> Result<Response<pb::Job>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().job_id;
        let mut tx = self.db.tenant(&ctx).await?;
        let job = jobs::lock(tx.conn(), id).await.map_err(Error::from)?.ok_or_else(|| no_job(id))?;
        match job.state.as_str() {
            "cancelled" => {}
            "queued" | "blocked" | "running" => {
                self.cancel_locked(&mut tx, &ctx, vec![job], "cancelled").await?
            }
            state => {
                return Err(Error::new(
                    Code::Conflict,
                    format!("The job is {state}: there is nothing to cancel."),
                )
                .into());
            }
        }
        let job = jobs::get(tx.conn(), id).await.map_err(Error::from)?.ok_or_else(|| no_job(id))?;
        tx.answer(to_pb(job)).await
    }

    async fn retry_job(&self, request: Request<pb::RetryJobRequest>) -> Result<Response<pb::Job>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().job_id;
        let mut tx = self.db.tenant(&ctx).await?;
        let job = jobs::lock(tx.conn(), id).await.map_err(Error::from)?.ok_or_else(|| no_job(id))?;
        if !matches!(job.state.as_str(), "failed" | "dead" | "cancelled") {
            return Err(Error::new(
                Code::Conflict,
                format!("The job is {}: only a failed, dead or cancelled one is retried.", job.state),
            )
            .into());
        }
        if crate::store::agents::hold(tx.conn(), &job.agent_id).await.map_err(Error::from)?.is_none() {
            return Err(Error::new(Code::Conflict, "Its agent was deleted: nobody could run it.").into());
        }
        queue::requeue(tx.conn(), id, &job.agent_id, self.clock.now()).await.map_err(Error::from)?;
        let details = [("was", job.state)];
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "job.retried", ("job", id), &details).await?;
        let job = jobs::get(tx.conn(), id).await.map_err(Error::from)?.ok_or_else(|| no_job(id))?;
        let answer = tx.answer(to_pb(job)).await?;
        self.taken_in();
        Ok(answer)
    }

    type StreamJobLogsStream = Pin<Box<dyn Stream<Item = Result<pb::JobLogEntry, Status>> + Send>>;

    async fn stream_job_logs(
        &self,
        request: Request<pb::StreamJobLogsRequest>,
    ) -> Result<Response<Self::StreamJobLogsStream>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        self.job(&ctx, &r.job_id).await?;
        let (to, from) = mpsc::channel(64);
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(error) = this.follow(&ctx, &r, &to).await {
                let _ = to.send(Err(error.into())).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(from))))
    }
}

impl Service {
    async fn job(&self, ctx: &RequestCtx, id: &str) -> Result<JobRow> {
        let mut tx = self.db.tenant_read(ctx).await?;
        let job = jobs::get(tx.conn(), id).await?;
        tx.commit().await?;
        job.ok_or_else(|| no_job(id))
    }

    /// Sends what there is; with `follow`, until the job has ended and all is sent.
    async fn follow(
        &self,
        ctx: &RequestCtx,
        r: &pb::StreamJobLogsRequest,
        to: &mpsc::Sender<Result<pb::JobLogEntry, Status>>,
    ) -> Result<()> {
        let mut after = r.after;
        loop {
            // The job first, its lines second: lines of an ended job are all there.
            let mut tx = self.db.tenant_read(ctx).await?;
            let job = jobs::get(tx.conn(), &r.job_id).await?.ok_or_else(|| no_job(&r.job_id))?;
            let lines = logs::list(tx.conn(), &r.job_id, after, 500).await?;
            tx.commit().await?;
            let more = lines.len() == 500;
            for line in lines {
                after = line.sequence;
                let entry = pb::JobLogEntry {
                    sequence: line.sequence,
                    attempt: u32::try_from(line.attempt).unwrap_or(0),
                    stream: line.stream,
                    text: line.text,
                    at: Some(to_proto(line.at)),
                };
                if to.send(Ok(entry)).await.is_err() {
                    return Ok(());
                }
            }
            let ended = matches!(job.state.as_str(), "completed" | "failed" | "cancelled" | "dead");
            if !more && (ended || !r.follow) {
                return Ok(());
            }
            if !more {
                tokio::select! {
                    () = to.closed() => return Ok(()),
                    // Another replica goes on where this one stops: the client has the last sequence number.
                    () = self.draining.cancelled() => return Err(Error::unavailable()),
                    () = tokio::time::sleep(Duration::from_millis(300)) => {}
                }
            }
        }
    }
}

fn no_job(id: &str) -> Error {
    Error::not_found(format!("job {id}"))
}

fn to_pb(j: JobRow) -> pb::Job {
    pb::Job {
        id: j.id,
        agent_id: j.agent_id,
        work_item_id: j.work_item_id,
        state: j.state,
        reason: j.reason,
        attempts: u32::try_from(j.attempts).unwrap_or(0),
        max_attempts: u32::try_from(j.max_attempts).unwrap_or(0),
        exit_code: j.exit_code,
        output: j.output,
        created_at: Some(to_proto(j.created_at)),
        started_at: j.started_at.map(to_proto),
        finished_at: j.finished_at.map(to_proto),
        run_at: Some(to_proto(j.run_at)),
    }
}

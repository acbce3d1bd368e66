//! The Sprite protocol. The context's actor is the Sprite; its organization comes with it.

use std::collections::HashMap;
use std::time::Duration;

use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::grpc::trace;
use nitejar_proto::sprites::v1 as pb;
use nitejar_proto::sprites::v1::runner_server::Runner;
use nitejar_proto::tenancy::v1::OpenSecretsRequest;
use nitejar_proto::tenancy::v1::tenancy_internal_client::TenancyInternalClient;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use crate::Service;
use crate::domain::job::{MAX_LOG, Outcome};
use crate::endings::Attempt;
use crate::store::agents::AgentRow;
use crate::store::queue::{self, Claimed};
use crate::store::{agents, jobs, logs, sprites, work_items};

#[tonic::async_trait]
impl Runner for Service {
    async fn claim_jobs(
        &self,
        request: Request<pb::ClaimJobsRequest>,
    ) -> Result<Response<pb::ClaimJobsResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let (agent, _) = self.sprite(&ctx).await?;
        sprites::note_asked(&mut *self.db.control_of(ctx.tenant()?).await?, &ctx.actor.id, self.clock.now())
            .await
            .map_err(Error::from)?;
        let bell = self.wake.of(&agent);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(u64::from(r.wait_seconds.min(25)));
        loop {
            let (_, phase) = self.sprite(&ctx).await?;
            if phase == "stopping" || phase == "stopped" {
                return Ok(Response::new(pb::ClaimJobsResponse { assignments: Vec::new(), stop: true }));
            }
            let assignments = self.claim(&ctx, &agent, i64::from(r.max_jobs.clamp(1, 16))).await?;
            let waited = tokio::time::Instant::now() >= deadline || self.draining.is_cancelled();
            if !assignments.is_empty() || waited {
                return Ok(Response::new(pb::ClaimJobsResponse { assignments, stop: false }));
            }
            let look_again = (tokio::time::Instant::now() + Duration::from_secs(1)).min(deadline);
            tokio::select! {
                () = bell.notified() => {}
                () = self.draining.cancelled() => {}
                () = tokio::time::sleep_until(look_again) => {}
            }
        }
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let (agent, _) = self.sprite(&ctx).await?;
        let mut tx = self.db.tenant(&ctx).await?;
        let until = self.clock.now() + self.lease();
        let extended =
            queue::extend(tx.conn(), &r.job_id, &agent, r.lease_epoch, until).await.map_err(Error::from)?;
        if extended.is_none() {
            let job = jobs::get(tx.conn(), &r.job_id).await.map_err(Error::from)?;
            let cancelled = job.is_some_and(|j| {
                j.agent_id == agent && j.state == "cancelled" && j.lease_epoch == r.lease_epoch
            });
            return if cancelled {
                Ok(Response::new(pb::HeartbeatResponse { cancel: true }))
            } else {
                Err(stale().into())
            };
        }
        tx.commit().await?;
        Ok(Response::new(pb::HeartbeatResponse { cancel: false }))
    }

    async fn append_logs(
        &self,
        request: Request<pb::AppendLogsRequest>,
    ) -> Result<Response<pb::AppendLogsResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let (agent, _) = self.sprite(&ctx).await?;
        let count = i64::try_from(r.lines.len()).unwrap_or(0);
        let mut tx = self.db.tenant(&ctx).await?;
        let Some((attempt, lines, bytes)) =
            logs::lock(tx.conn(), &r.job_id, &agent, r.lease_epoch).await.map_err(Error::from)?
        else {
            // The output of a job that was cancelled meanwhile is dropped, and its end is still to be told.
            let job = jobs::get(tx.conn(), &r.job_id).await.map_err(Error::from)?;
            let cancelled = job.is_some_and(|j| {
                j.agent_id == agent && j.state == "cancelled" && j.lease_epoch == r.lease_epoch
            });
            return if cancelled {
                Ok(Response::new(pb::AppendLogsResponse { next_line: r.first_line + count }))
            } else {
                Err(stale().into())
            };
        };
        let known = logs::last_line(tx.conn(), &r.job_id, r.lease_epoch).await.map_err(Error::from)?;
        // A batch whose answer was lost comes again: what is known of it is skipped.
        let skip = usize::try_from((known + 1 - r.first_line).max(0)).unwrap_or(0);
        let mut new: Vec<(String, String)> =
            r.lines.into_iter().skip(skip).map(|l| (l.stream, l.text)).collect();
        let mut room = MAX_LOG - bytes;
        new.retain(|(_, text)| {
            room -= i64::try_from(text.len() + 1).unwrap_or(i64::MAX);
            room >= 0
        });
        if !new.is_empty() {
            let line = r.first_line + i64::try_from(skip).unwrap_or(0);
            let at = logs::Position { attempt, epoch: r.lease_epoch, line, lines };
            logs::append(tx.conn(), &r.job_id, at, &new, self.clock.now()).await.map_err(Error::from)?;
        }
        tx.commit().await?;
        Ok(Response::new(pb::AppendLogsResponse { next_line: r.first_line + count }))
    }

    async fn complete_job(
        &self,
        request: Request<pb::CompleteJobRequest>,
    ) -> Result<Response<pb::CompleteJobResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let (agent, _) = self.sprite(&ctx).await?;
        let outcome = Outcome::parse(&r.outcome)
            .ok_or_else(|| Error::invalid("/outcome", "must be a known outcome"))?;
        let mut tx = self.db.tenant(&ctx).await?;
        let job = jobs::lock(tx.conn(), &r.job_id).await.map_err(Error::from)?;
        let job = job.filter(|j| j.agent_id == agent && j.lease_epoch == r.lease_epoch).ok_or_else(stale)?;
        if job.state == "running" {
            let span = tracing::info_span!("job.run", service = "runner", otel.kind = "consumer", job = %job.id,
                outcome = %r.outcome, attempt = job.attempts);
            trace::continue_from_text(&span, &job.trace);
            // The cause is the request that made the work, not the one that reports its end.
            let cause = ctx.clone().with_request_id(&job.request_id);
            let attempt = Attempt {
                id: job.id,
                agent_id: job.agent_id,
                work_item_id: job.work_item_id,
                attempts: job.attempts,
                max_attempts: job.max_attempts,
                outcome,
                reason: r.reason,
                exit_code: r.exit_code,
                output: r.output,
            };
            self.end_attempts(&mut tx, &cause, vec![attempt]).instrument(span).await?;
        }
        // Any other state with this epoch: the end was told before, or a person cancelled it. Either way it is known.
        tx.commit().await?;
        self.enqueued.notify_one();
        self.wake.ring([agent.as_str()]);
        Ok(Response::new(pb::CompleteJobResponse {}))
    }
}

fn stale() -> Error {
    Error::new(Code::StaleLease, "This lease has ended. Stop the job; somebody else may run it.")
}

impl Service {
    fn lease(&self) -> chrono::Duration {
        chrono::Duration::seconds(i64::from(self.config.lease_seconds))
    }

    /// The calling Sprite's (agent, phase).
    async fn sprite(&self, ctx: &RequestCtx) -> Result<(String, String)> {
        for part in self.db.parts_twice() {
            let found = sprites::of_runner(&mut *part.control_once().await?, &ctx.actor.id).await?;
            if let Some(found) = found {
                return Ok(found);
            }
        }
        Err(Error::new(Code::InvalidCredential, "This Sprite is gone."))
    }

    /// Whose token that is: (sprite, organization).
    pub(crate) async fn sprite_by_token(&self, sha256: &[u8]) -> Result<Option<(String, String)>> {
        for part in self.db.parts_twice() {
            if let Some(found) = sprites::by_token(&mut *part.control_once().await?, sha256).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn claim(&self, ctx: &RequestCtx, agent: &str, most: i64) -> Result<Vec<pb::Assignment>> {
        let default_timeout = self.default_timeout(ctx).await?;
        let now = self.clock.now();
        let mut tx = self.db.tenant(ctx).await?;
        // Locked: of two claims at once the second one counts the first one's jobs.
        let Some(row) = agents::lock(tx.conn(), agent).await?.filter(|a| a.state == "active") else {
            return Ok(Vec::new());
        };
        let slots = i64::from(row.config.slots());
        let claimed = queue::claim(tx.conn(), agent, most, slots, now, now + self.lease()).await?;
        if claimed.is_empty() {
            return Ok(Vec::new());
        }
        let items: Vec<String> = claimed.iter().map(|c| c.work_item_id.clone()).collect();
        let items = work_items::by_ids(tx.conn(), &items).await?;
        let events = claimed.iter().map(|c| {
            let details = [("attempt", c.attempts.to_string()), ("agent", agent.to_owned())];
            nitejar_db::audit::event(ctx, &*self.clock, "job.started", ("job", &c.id), &details)
        });
        nitejar_db::audit::push_all(tx.conn(), ctx, &*self.clock, events.collect()).await?;
        tx.commit().await?;
        let items: HashMap<String, serde_json::Value> = items
            .into_iter()
            .map(|w| {
                let json = serde_json::json!({
                    "id": w.id, "source": w.source, "event": w.event, "session_key": w.session_key, "title": w.title,
                    "body": w.body, "sender": w.sender, "url": w.url, "created_at": w.created_at,
                });
                (w.id, json)
            })
            .collect();
        let timeout = match row.config.timeout_seconds {
            0 => default_timeout,
            seconds => seconds,
        };
        let mut assignments = Vec::with_capacity(claimed.len());
        for c in claimed {
            match self.secrets(ctx, &row, &c).await {
                Ok(env) => {
                    assignments.push(assignment(&row, c, env, &items, (self.config.lease_seconds, timeout)))
                }
                Err(error) => {
                    tracing::warn!(job = c.id, error = %error.log_text(), "no secrets; the job goes back to the queue");
                    self.put_back(ctx, c).await?;
                }
            }
        }
        Ok(assignments)
    }

    async fn secrets(
        &self,
        ctx: &RequestCtx,
        agent: &AgentRow,
        c: &Claimed,
    ) -> Result<HashMap<String, String>> {
        if agent.config.secrets.is_empty() {
            return Ok(HashMap::new());
        }
        let message = OpenSecretsRequest { names: agent.config.secrets.clone(), job_id: c.id.clone() };
        let request = self.tenancy.request(&self.as_service(ctx)?, message)?;
        Ok(TenancyInternalClient::new(self.tenancy.channel())
            .open_secrets(request)
            .await?
            .into_inner()
            .values)
    }

    async fn put_back(&self, ctx: &RequestCtx, c: Claimed) -> Result<()> {
        let mut tx = self.db.tenant(ctx).await?;
        for (id, agent_id, attempts, max_attempts) in
            queue::lock_running(tx.conn(), &[c.id], &[c.lease_epoch]).await?
        {
            let attempt = Attempt {
                id,
                agent_id,
                work_item_id: c.work_item_id.clone(),
                attempts,
                max_attempts,
                outcome: Outcome::Infrastructure,
                reason: "secrets_unavailable".into(),
                exit_code: None,
                output: String::new(),
            };
            self.end_attempts(&mut tx, ctx, vec![attempt]).await?;
        }
        tx.commit().await
    }
}

fn assignment(
    agent: &AgentRow,
    c: Claimed,
    env: HashMap<String, String>,
    items: &HashMap<String, serde_json::Value>,
    (lease_seconds, timeout_seconds): (u32, u32),
) -> pb::Assignment {
    let limits = agent.config.limits.effective();
    pb::Assignment {
        job_id: c.id,
        lease_epoch: c.lease_epoch,
        lease_seconds,
        attempt: u32::try_from(c.attempts).unwrap_or(1),
        command: agent.config.command.clone(),
        masked: env.keys().cloned().collect(),
        env,
        work_item_json: items.get(&c.work_item_id).map(ToString::to_string).unwrap_or_default(),
        timeout_seconds,
        cpu_seconds: limits.cpu_seconds,
        memory_mib: limits.memory_mib,
        processes: limits.processes,
        disk_mib: limits.disk_mib,
        traceparent: c.trace,
    }
}

//! Agents and their Sprites.

use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::id::{AgentId, SpriteId};
use nitejar_common::page;
use nitejar_common::time::to_proto;
use nitejar_db::errors::is_unique_violation;
use nitejar_proto::billing::v1::ReserveRequest;
use nitejar_proto::billing::v1::billing_internal_client::BillingInternalClient;
use nitejar_proto::sprites::v1 as pb;
use nitejar_proto::sprites::v1::agents_server::Agents;
use sqlx::types::Json;
use tonic::{Request, Response, Status};

use crate::domain::agent::{Config, Limits};
use crate::store::agents::{self, AgentRow};
use crate::store::jobs::{self, JobRow};
use crate::store::queue::{self, Ending};
use crate::{Service, delivery};

#[tonic::async_trait]
impl Agents for Service {
    async fn create_agent(
        &self,
        request: Request<pb::CreateAgentRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let now = self.clock.now();
        let row = AgentRow {
            id: AgentId::new(&*self.clock).to_string(),
            name: if r.name.is_empty() { r.handle.clone() } else { r.name },
            handle: r.handle,
            state: "active".into(),
            config: Json(r.config.map(from_pb).unwrap_or_default()),
            created_at: now,
            updated_at: now,
            sprite_id: SpriteId::new(&*self.clock).to_string(),
            sprite_state: "provisioning".into(),
            sprite_provider: self.provider.name().to_owned(),
            sprite_changed_at: now,
            sprite_reason: String::new(),
        };
        // A claim before the reservation: killed in between, the reaper gives the slot back.
        let mut tx = self.db.tenant(&ctx).await?;
        agents::claim_slot(tx.conn(), &row.id, now).await.map_err(Error::from)?;
        tx.commit().await?;
        self.reserve_slot(&ctx, &row.id).await?;
        let mut tx = self.db.tenant(&ctx).await?;
        if let Err(error) = agents::insert(tx.conn(), &row).await {
            drop(tx);
            let taken = is_unique_violation(&error, "agents_handle");
            self.release_slot(&ctx, &row.id).await?;
            return Err(if taken {
                Error::new(
                    Code::AlreadyExists,
                    format!("There is an agent @{} here. Choose another handle.", row.handle),
                )
                .violation("/handle", "must be free")
            } else {
                error.into()
            }
            .into());
        }
        agents::unclaim_slot(tx.conn(), &row.id).await.map_err(Error::from)?;
        let details = [("handle", row.handle.clone()), ("sprite", row.sprite_id.clone())];
        let target = ("agent", row.id.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "agent.created", target, &details).await?;
        let answer = tx.answer(to_pb(row)).await?;
        self.unsettled.notify_one();
        Ok(answer)
    }

    async fn get_agent(&self, request: Request<pb::GetAgentRequest>) -> Result<Response<pb::Agent>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().agent_id;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let row = agents::get(tx.conn(), id).await.map_err(Error::from)?;
        tx.commit().await?;
        Ok(Response::new(to_pb(row.ok_or_else(|| no_agent(id))?)))
    }

    async fn list_agents(
        &self,
        request: Request<pb::ListAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let (rows, next_page_token) = self.page(&ctx, r.page_size, &r.page_token).await?;
        Ok(Response::new(pb::ListAgentsResponse {
            agents: rows.into_iter().map(to_pb).collect(),
            next_page_token,
        }))
    }

    async fn list_secret_agents(
        &self,
        request: Request<pb::ListSecretAgentsRequest>,
    ) -> Result<Response<pb::ListAgentsResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let size = page::size(r.page_size, 50, 100);
        let after = page::after(&r.page_token)?;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let rows = agents::with_secret(tx.conn(), &r.name, &after, size + 1).await.map_err(Error::from)?;
        tx.commit().await?;
        let (rows, next_page_token) = page::cut(rows, size, |a| a.id.clone());
        Ok(Response::new(pb::ListAgentsResponse {
            agents: rows.into_iter().map(to_pb).collect(),
            next_page_token,
        }))
    }

    async fn list_sprites(
        &self,
        request: Request<pb::ListSpritesRequest>,
    ) -> Result<Response<pb::ListSpritesResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let (rows, next_page_token) = self.page(&ctx, r.page_size, &r.page_token).await?;
        let sprites = rows.into_iter().filter_map(|row| to_pb(row).sprite).collect();
        Ok(Response::new(pb::ListSpritesResponse { sprites, next_page_token }))
    }

    async fn update_agent(
        &self,
        request: Request<pb::UpdateAgentRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let mask = r.update_mask.map(|m| m.paths).unwrap_or_default();
        let config = r.config.map(from_pb).unwrap_or_default();
        self.change(&ctx, &r.agent_id, "agent.updated", &[("fields", mask.join(","))], |row| {
            for path in &mask {
                match path.as_str() {
                    "name" if r.name.trim().is_empty() => {
                        return Err(Error::invalid("/name", "must not be empty"));
                    }
                    "name" => row.name.clone_from(&r.name),
                    path => row.config.apply(&config, path)?,
                }
            }
            Ok(())
        })
        .await
    }

    async fn pause_agent(
        &self,
        request: Request<pb::PauseAgentRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().agent_id;
        let pause = |row: &mut AgentRow| {
            row.state = "paused".into();
            Ok(())
        };
        self.change(&ctx, id, "agent.paused", &[], pause).await
    }

    async fn resume_agent(
        &self,
        request: Request<pb::ResumeAgentRequest>,
    ) -> Result<Response<pb::Agent>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().agent_id;
        let resume = |row: &mut AgentRow| {
            row.state = "active".into();
            Ok(())
        };
        let answer = self.change(&ctx, id, "agent.resumed", &[], resume).await?;
        self.wake.ring([id.as_str()]);
        self.unsettled.notify_one();
        Ok(answer)
    }

    async fn delete_agent(
        &self,
        request: Request<pb::DeleteAgentRequest>,
    ) -> Result<Response<pb::DeleteAgentResponse>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().agent_id;
        let mut tx = self.db.tenant(&ctx).await?;
        let mut row = agents::lock(tx.conn(), id).await.map_err(Error::from)?.ok_or_else(|| no_agent(id))?;
        let open = jobs::lock_open_of_agent(tx.conn(), id).await.map_err(Error::from)?;
        self.cancel_locked(&mut tx, &ctx, open, "agent_deleted").await?;
        row.state = "deleted".into();
        row.updated_at = self.clock.now();
        agents::save(tx.conn(), &row).await.map_err(Error::from)?;
        delivery::push(tx.conn(), &ctx, &*self.clock, delivery::RELEASE_AGENTS, std::slice::from_ref(id))
            .await?;
        let details = [("handle", row.handle)];
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "agent.deleted", ("agent", id), &details)
            .await?;
        tx.commit().await?;
        self.unsettled.notify_one();
        Ok(Response::new(pb::DeleteAgentResponse {}))
    }
}

impl Service {
    async fn page(&self, ctx: &RequestCtx, size: u32, token: &str) -> Result<(Vec<AgentRow>, String)> {
        let size = page::size(size, 50, 100);
        let after = page::after(token)?;
        let mut tx = self.db.tenant_read(ctx).await?;
        let rows = agents::list(tx.conn(), &after, size + 1).await?;
        tx.commit().await?;
        Ok(page::cut(rows, size, |a| a.id.clone()))
    }

    /// Changes an agent; nothing is written and audited when nothing changed.
    async fn change(
        &self,
        ctx: &RequestCtx,
        id: &str,
        action: &str,
        details: &[(&str, String)],
        change: impl FnOnce(&mut AgentRow) -> Result<()>,
    ) -> Result<Response<pb::Agent>, Status> {
        let mut tx = self.db.tenant(ctx).await?;
        let row = agents::lock(tx.conn(), id).await.map_err(Error::from)?;
        let mut row = row.ok_or_else(|| no_agent(id))?;
        let before = (row.name.clone(), row.state.clone(), row.config.clone());
        change(&mut row)?;
        if before != (row.name.clone(), row.state.clone(), row.config.clone()) {
            row.updated_at = self.clock.now();
            agents::save(tx.conn(), &row).await.map_err(Error::from)?;
            nitejar_db::audit::push(tx.conn(), ctx, &*self.clock, action, ("agent", id), details).await?;
        }
        tx.answer(to_pb(row)).await
    }

    /// Cancels jobs that are locked in this transaction: what ran is counted, what waited is given back.
    pub(crate) async fn cancel_locked(
        &self,
        tx: &mut nitejar_db::TenantTx,
        ctx: &RequestCtx,
        open: Vec<JobRow>,
        reason: &str,
    ) -> Result<()> {
        let (mut commit, mut release, mut events) = (Vec::new(), Vec::new(), Vec::new());
        for job in &open {
            match job.state.as_str() {
                "running" => commit.push(job.id.clone()),
                // Also when nothing is held as far as we know: a dispatcher may have died after asking.
                _ => release.push(job.id.clone()),
            }
            let details = [("state", job.state.clone()), ("reason", reason.to_owned())];
            events.push(nitejar_db::audit::event(
                ctx,
                &*self.clock,
                "job.cancelled",
                ("job", &job.id),
                &details,
            ));
        }
        let endings = open.into_iter().map(|job| Ending {
            id: job.id,
            agent_id: job.agent_id,
            state: "cancelled".into(),
            reason: reason.to_owned(),
            reserved: false,
            exit_code: None,
            output: String::new(),
            run_at: None,
        });
        queue::finish(tx.conn(), &endings.collect::<Vec<_>>(), self.clock.now()).await?;
        delivery::push(tx.conn(), ctx, &*self.clock, delivery::COMMIT, &commit).await?;
        delivery::push(tx.conn(), ctx, &*self.clock, delivery::RELEASE, &release).await?;
        nitejar_db::audit::push_all(tx.conn(), ctx, &*self.clock, events).await?;
        Ok(())
    }

    async fn reserve_slot(&self, ctx: &RequestCtx, agent: &str) -> Result<()> {
        let me = self.as_service(ctx)?;
        let message = ReserveRequest { meter: "agents".into(), keys: vec![agent.to_owned()], ttl_seconds: 0 };
        let mut client = BillingInternalClient::new(self.billing.channel());
        let answer = client.reserve(self.billing.request(&me, message)?).await?.into_inner();
        if answer.decisions.first().is_some_and(|d| d.allowed) {
            return Ok(());
        }
        let mut tx = self.db.tenant(ctx).await?;
        agents::unclaim_slot(tx.conn(), agent).await?;
        tx.commit().await?;
        let limit = answer.limit.unwrap_or_default();
        Err(Error::new(
            Code::AgentsLimit,
            format!("The plan {} allows {limit} agents. Delete one, or change the plan.", answer.plan),
        ))
    }

    async fn release_slot(&self, ctx: &RequestCtx, agent: &str) -> Result<()> {
        let mut tx = self.db.tenant(ctx).await?;
        delivery::push(tx.conn(), ctx, &*self.clock, delivery::RELEASE_AGENTS, &[agent.to_owned()]).await?;
        agents::unclaim_slot(tx.conn(), agent).await?;
        tx.commit().await
    }

    /// This service in the caller's organization, as part of the caller's request.
    pub(crate) fn as_service(&self, ctx: &RequestCtx) -> Result<RequestCtx> {
        Ok(RequestCtx::service("sprites", &*self.clock)
            .for_tenant(ctx.tenant()?.clone())
            .with_request_id(&ctx.request_id))
    }
}

fn no_agent(id: &str) -> Error {
    Error::not_found(format!("agent {id}"))
}

fn from_pb(c: pb::AgentConfig) -> Config {
    let limits = c.limits.unwrap_or_default();
    Config {
        command: c.command,
        secrets: c.secrets,
        concurrency: c.concurrency,
        timeout_seconds: c.timeout_seconds,
        repositories: c.repositories,
        labels: c.labels,
        on_mention: c.on_mention,
        on_opened: c.on_opened,
        limits: Limits {
            cpu_seconds: limits.cpu_seconds,
            memory_mib: limits.memory_mib,
            processes: limits.processes,
            disk_mib: limits.disk_mib,
        },
    }
}

fn to_pb(row: AgentRow) -> pb::Agent {
    let c = row.config.0;
    pb::Agent {
        handle: row.handle,
        name: row.name,
        state: row.state,
        config: Some(pb::AgentConfig {
            command: c.command,
            secrets: c.secrets,
            concurrency: c.concurrency,
            timeout_seconds: c.timeout_seconds,
            repositories: c.repositories,
            labels: c.labels,
            on_mention: c.on_mention,
            on_opened: c.on_opened,
            limits: Some(pb::JobLimits {
                cpu_seconds: c.limits.cpu_seconds,
                memory_mib: c.limits.memory_mib,
                processes: c.limits.processes,
                disk_mib: c.limits.disk_mib,
            }),
        }),
        sprite: Some(pb::Sprite {
            id: row.sprite_id,
            agent_id: row.id.clone(),
            state: row.sprite_state,
            provider: row.sprite_provider,
            changed_at: Some(to_proto(row.sprite_changed_at)),
            reason: row.sprite_reason,
        }),
        id: row.id,
        created_at: Some(to_proto(row.created_at)),
        updated_at: Some(to_proto(row.updated_at)),
    }
}

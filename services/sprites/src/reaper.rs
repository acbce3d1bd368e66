//! Takes back what nobody looks after: jobs whose lease ended, blocked jobs whose month is over, agents' slots whose
//! creation was killed.

use std::collections::BTreeMap;
use std::time::Duration;

use nitejar_common::RequestCtx;
use nitejar_common::error::Result;
use nitejar_db::Db;
use tokio_util::sync::CancellationToken;

use crate::Service;
use crate::delivery;
use crate::domain::job::Outcome;
use crate::endings::Attempt;
use crate::store::{agents, queue};

impl Service {
    pub(crate) async fn run_reaper(&self, stop: CancellationToken) -> Result<()> {
        while !stop.is_cancelled() {
            for part in self.db.parts() {
                if let Err(error) = self.reaper_turn(part).await {
                    tracing::warn!(error = %error.log_text(), "reaper; trying again");
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
        Ok(())
    }

    async fn reaper_turn(&self, part: &Db) -> Result<()> {
        let now = self.clock.now();
        let mut tx = part.control().await?;
        let leased = queue::due(tx.conn(), "leased", now, 500, 5000).await?;
        let blocked = queue::due(tx.conn(), "blocked", now, 1, 5000).await?;
        let claims = agents::stale_claims(tx.conn(), now - chrono::Duration::seconds(60)).await?;
        tx.commit().await?;
        let mut by_tenant: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for pointer in leased {
            by_tenant.entry(pointer.tenant_number).or_default().push(pointer.job_id);
        }
        // One tenant's trouble is not the others': it is found again in the next turn.
        let noted = |tenant: i64, result: Result<()>| {
            if let Err(error) = result {
                tracing::warn!(tenant, error = %error.log_text(), "reaper; this tenant again in the next turn");
            }
        };
        for (tenant, jobs) in by_tenant {
            if let Some(ctx) = self.system(part, tenant).await? {
                noted(tenant, self.expire_leases(&ctx, &jobs).await);
            }
        }
        for pointer in blocked {
            if let Some(ctx) = self.system(part, pointer.tenant_number).await? {
                noted(pointer.tenant_number, self.unblock(&ctx).await);
            }
        }
        for (agent, tenant) in claims {
            if let Some(ctx) = self.system(part, tenant).await? {
                noted(tenant, self.give_back_slot(&ctx, &agent).await);
            }
        }
        Ok(())
    }

    /// This service's own context in the tenant of that number in one of its databases.
    pub(crate) async fn system(&self, part: &Db, tenant: i64) -> Result<Option<RequestCtx>> {
        let org = part.org_of(tenant).await?;
        Ok(org.map(|org| RequestCtx::service("sprites", &*self.clock).for_tenant(org)))
    }

    async fn expire_leases(&self, ctx: &RequestCtx, jobs: &[String]) -> Result<()> {
        let mut tx = self.db.tenant(ctx).await?;
        let expired = queue::lock_expired(tx.conn(), jobs, self.clock.now()).await?;
        let attempts = expired.into_iter().map(|(id, agent_id, attempts, max_attempts)| Attempt {
            id,
            agent_id,
            work_item_id: String::new(),
            attempts,
            max_attempts,
            outcome: Outcome::Infrastructure,
            reason: "lease_expired".into(),
            exit_code: None,
            output: String::new(),
        });
        self.end_attempts(&mut tx, ctx, attempts.collect()).await?;
        queue::unpoint_ended(tx.conn(), jobs).await?;
        tx.commit().await?;
        self.enqueued.notify_one();
        Ok(())
    }

    /// Blocked jobs ask billing again, oldest first.
    pub(crate) async fn unblock(&self, ctx: &RequestCtx) -> Result<()> {
        let mut tx = self.db.tenant(ctx).await?;
        queue::unblock(tx.conn()).await?;
        tx.commit().await?;
        self.enqueued.notify_one();
        Ok(())
    }

    async fn give_back_slot(&self, ctx: &RequestCtx, agent: &str) -> Result<()> {
        let mut tx = self.db.tenant(ctx).await?;
        if agents::get(tx.conn(), agent).await?.is_none() {
            delivery::push(tx.conn(), ctx, &*self.clock, delivery::RELEASE_AGENTS, &[agent.to_owned()])
                .await?;
        }
        agents::unclaim_slot(tx.conn(), agent).await?;
        tx.commit().await
    }
}

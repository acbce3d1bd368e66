//! Queued jobs ask billing, fairly: of every tenant a batch at a time, so that one with ten thousand jobs does not make
//! another one's first wait.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use nitejar_common::RequestCtx;
use nitejar_common::error::Result;
use nitejar_db::Db;
use nitejar_proto::billing::v1::ReserveRequest;
use nitejar_proto::billing::v1::billing_internal_client::BillingInternalClient;
use opentelemetry::KeyValue;
use tokio_util::sync::CancellationToken;

use crate::store::queue;
use crate::{Service, delivery};

/// Of one tenant at a time.
const EACH: i64 = 200;
/// In one turn.
const MOST: i64 = 4000;
/// A reservation outlives the longest job and its retries.
const HOLD: u32 = 172_800;

impl Service {
    pub(crate) async fn run_dispatch(&self, stop: CancellationToken) -> Result<()> {
        let depth = opentelemetry::global::meter("nitejar")
            .u64_gauge("jobs_waiting")
            .with_description("Jobs that have not ended, by where they are")
            .build();
        let mut turns = 0u32;
        while !stop.is_cancelled() {
            let busy = match self.dispatch_turn().await {
                Ok(busy) => busy,
                Err(error) => {
                    tracing::warn!(error = %error.log_text(), "dispatch; trying again");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    false
                }
            };
            if turns.is_multiple_of(50) {
                let mut depths = Vec::new();
                for part in self.db.parts() {
                    depths.extend(queue::depths(&mut *part.control_once().await?).await?);
                }
                for kind in ["queued", "ready", "leased", "blocked"] {
                    let count: i64 = depths.iter().filter(|(k, _)| k == kind).map(|(_, n)| *n).sum();
                    depth.record(u64::try_from(count).unwrap_or(0), &[KeyValue::new("kind", kind)]);
                }
            }
            turns = turns.wrapping_add(1);
            if !busy {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.enqueued.notified() => {}
                    () = tokio::time::sleep(Duration::from_millis(250)) => {}
                }
            }
        }
        Ok(())
    }

    async fn dispatch_turn(&self) -> Result<bool> {
        let mut busy = false;
        for part in self.db.parts() {
            busy |= self.dispatch_part(part).await?;
        }
        Ok(busy)
    }

    async fn dispatch_part(&self, part: &Db) -> Result<bool> {
        let mut tx = part.control().await?;
        let due = queue::due(tx.conn(), "queued", self.clock.now(), EACH, MOST).await?;
        tx.commit().await?;
        let mut by_tenant: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for pointer in due {
            by_tenant.entry(pointer.tenant_number).or_default().push(pointer.job_id);
        }
        let results: Vec<bool> = stream::iter(by_tenant)
            .map(|(tenant, jobs)| async move {
                match self.dispatch_tenant(part, tenant, jobs).await {
                    Ok(()) => true,
                    Err(error) => {
                        tracing::warn!(tenant, error = %error.log_text(), "not dispatched; trying again");
                        false
                    }
                }
            })
            .buffer_unordered(4)
            .collect()
            .await;
        Ok(results.into_iter().any(|moved| moved))
    }

    async fn dispatch_tenant(&self, part: &Db, tenant: i64, jobs: Vec<String>) -> Result<()> {
        let Some(org) = part.org_of(tenant).await? else { return Ok(()) };
        let ctx = RequestCtx::service("sprites", &*self.clock).for_tenant(org);
        let message = ReserveRequest { meter: "jobs".into(), keys: jobs, ttl_seconds: HOLD };
        let mut client = BillingInternalClient::new(self.billing.channel());
        let answer = client.reserve(self.billing.request(&ctx, message)?).await?.into_inner();
        let (allowed, refused): (Vec<_>, Vec<_>) = answer.decisions.into_iter().partition(|d| d.allowed);
        let allowed: Vec<String> = allowed.into_iter().map(|d| d.key).collect();
        let refused: Vec<String> = refused.into_iter().map(|d| d.key).collect();

        let mut tx = self.db.tenant(&ctx).await?;
        let moved = queue::allow(tx.conn(), &allowed).await?;
        // Cancelled while we asked: billing must not keep a unit for what will never run.
        let unmoved: Vec<String> =
            allowed.into_iter().filter(|id| !moved.iter().any(|m| m.id == *id)).collect();
        let unused = queue::ended(tx.conn(), &unmoved).await?;
        delivery::push(tx.conn(), &ctx, &*self.clock, delivery::RELEASE, &unused).await?;
        queue::unpoint(tx.conn(), &unused).await?;
        // Usually the quota's change wakes them; asking now and then finds what that missed.
        let now = self.clock.now();
        let until = next_month(now).min(now + chrono::Duration::minutes(5));
        queue::block(tx.conn(), &refused, until).await?;
        tx.commit().await?;
        self.wake.ring(moved.iter().map(|m| m.agent_id.as_str()));
        if !moved.is_empty() {
            self.unsettled.notify_one();
        }
        Ok(())
    }
}

/// When a month's quota begins anew: the first instant of the next month, UTC.
fn next_month(now: chrono::DateTime<chrono::Utc>) -> chrono::DateTime<chrono::Utc> {
    use chrono::{Datelike as _, Months, NaiveDate};
    NaiveDate::from_ymd_opt(now.year(), now.month(), 1)
        .and_then(|first| first.checked_add_months(Months::new(1)))
        .and_then(|first| first.and_hms_opt(0, 0, 0))
        .map_or(now + chrono::Duration::days(31), |at| at.and_utc())
}

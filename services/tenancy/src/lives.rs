//! Tells the other services how far an organization's life goes on, and purges what is to be deleted. What is to be done
//! stands in `control.orgs`; each step may be repeated, by any replica, and a loop goes on wherever a crash left it.
//!
//! A purge: sprites, billing and this service give up their schemas, each in one transaction and only once its outbox is
//! empty; then audit, which has heard of everything by then; then, in one transaction, the receipt, its mails, the
//! platform's event and `purged`.

use std::collections::HashMap;
use std::time::Duration;

use nitejar_common::RequestCtx;
use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::client::Upstream;
use nitejar_common::id::OrgId;
use nitejar_proto::common::v1::tenants_client::TenantsClient;
use nitejar_proto::common::v1::{PurgeTenantRequest, SetTenantStateRequest};
use sqlx::types::Json;
use tokio_util::sync::CancellationToken;

use crate::Service;
use crate::domain::life::State;
use crate::domain::receipt::{Receipt, SLUGS_HELD, Store, Table};
use crate::mail::{self, Mail};
use crate::store::orgs::{self, OrgsRow};
use crate::store::{receipts, support};

/// How often to look when nothing wakes us.
const EVERY: Duration = Duration::from_secs(1);
/// Every so many turns slugs that were kept for purged organizations are given up.
const SWEEP: u32 = 600;
/// A schema with a million rows is counted before it is dropped.
const PURGE: Duration = Duration::from_secs(60);

impl Service {
    pub(crate) async fn follow_lives(&self, stop: CancellationToken) -> Result<()> {
        // Organization → how often its purge failed: what waits for a service is not asked for each second.
        let mut failed: HashMap<String, u32> = HashMap::new();
        let mut turn = 0u32;
        while !stop.is_cancelled() {
            turn = turn.wrapping_add(1);
            if let Err(error) = self.follow_once(turn, &mut failed).await {
                tracing::warn!(error = %error.log_text(), "organizations' lives; trying again");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.lives_changed.notified() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        Ok(())
    }

    async fn follow_once(&self, turn: u32, failed: &mut HashMap<String, u32>) -> Result<()> {
        let mut conn = self.db.control_once().await?;
        let untold = orgs::untold(&mut conn).await?;
        let to_purge = orgs::to_purge(&mut conn, self.clock.now()).await?;
        drop(conn);
        // One organization's trouble is not the others': it is found again in the next turn.
        for org in untold {
            if let Err(error) = self.tell(&org).await {
                tracing::warn!(org = org.id, error = %error.log_text(), "not all services heard of its state; again");
            }
        }
        if turn.is_multiple_of(SWEEP) {
            let mut conn = self.db.control_once().await?;
            let swept = match orgs::free_slugs(&mut conn, self.clock.now()).await {
                Ok(()) => support::sweep(&mut conn, self.clock.now()).await,
                failed => failed,
            };
            if let Err(error) = swept {
                tracing::warn!(%error, "what has had its time is not swept; trying again");
            }
        }
        failed.retain(|id, _| to_purge.iter().any(|org| org.id == *id));
        for org in to_purge {
            let id = org.id.clone();
            let times = failed.get(&id).copied().unwrap_or(0);
            if !turn.is_multiple_of(1 << times.min(5)) {
                continue;
            }
            if let Err(error) = self.purge(org).await {
                tracing::warn!(org = id, error = %error.log_text(), "not purged yet; trying again");
                failed.insert(id, times + 1);
            }
        }
        Ok(())
    }

    /// Every service knows whether the work goes on.
    async fn tell(&self, org: &OrgsRow) -> Result<()> {
        let id: OrgId = org.id.parse()?;
        let active = State::parse(&org.state)? == State::Active;
        let version = org.state_version;
        let message = SetTenantStateRequest { org_id: org.id.clone(), active, version };
        self.db.set_state(&id, active, version).await?;
        for upstream in self.tenants_of.iter() {
            let me = RequestCtx::service("tenancy", &*self.clock);
            let request = upstream.request(&me, message.clone())?;
            TenantsClient::new(upstream.channel()).set_tenant_state(request).await?;
        }
        Ok(orgs::told(&mut *self.db.control_once().await?, &org.id, version).await?)
    }

    async fn purge(&self, org: OrgsRow) -> Result<()> {
        let id: OrgId = org.id.parse()?;
        if org.state == State::Deleting.as_str() && !self.begin_purge(&id).await? {
            return Ok(());
        }
        let [sprites, billing, audit] = &*self.tenants_of;
        let mut deleted = vec![
            self.purge_at(sprites, "sprites", &id).await?,
            self.purge_at(billing, "billing", &id).await?,
        ];
        let own = self.db.purge(&id, &nitejar_db::life::NothingElse).await?.into_iter();
        let tables = own.map(|t| Table { name: t.name, rows: t.rows }).collect();
        deleted.push(Store { service: "tenancy".into(), tables });
        if orgs::has_events(&mut *self.db.control_once().await?, &org.id).await? {
            return Err(Error::unavailable().because("an event of it is still on its way"));
        }
        deleted.push(self.purge_at(audit, "audit", &id).await?);
        self.end_purge(&id, deleted).await
    }

    /// The point of no return. Whoever owns it now gets the receipt.
    async fn begin_purge(&self, id: &OrgId) -> Result<bool> {
        let ctx = RequestCtx::service("tenancy", &*self.clock).for_tenant(id.clone());
        let owners = self.owners(&ctx).await?;
        let mut tx = self.db.control().await?;
        let Some(mut row) = orgs::lock(tx.conn(), id.as_str()).await? else { return Ok(false) };
        if !row.begin_purge(self.clock.now())? {
            return Ok(false);
        }
        row.purge_owners = Json(owners);
        orgs::save_life(tx.conn(), &row).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn purge_at(&self, upstream: &Upstream, service: &str, org: &OrgId) -> Result<Store> {
        let me = RequestCtx::service("tenancy", &*self.clock);
        let request = upstream.request_within(&me, PurgeTenantRequest { org_id: org.to_string() }, PURGE)?;
        let purged = TenantsClient::new(upstream.channel()).purge_tenant(request).await?.into_inner();
        let tables = purged.tables.into_iter().map(|t| Table { name: t.name, rows: t.rows }).collect();
        Ok(Store { service: service.into(), tables })
    }

    async fn end_purge(&self, id: &OrgId, mut deleted: Vec<Store>) -> Result<()> {
        let now = self.clock.now();
        let mut tx = self.db.control().await?;
        let row = orgs::lock(tx.conn(), id.as_str()).await?;
        let Some(row) = row.filter(|row| row.state == State::Purging.as_str()) else { return Ok(()) };
        let rows = orgs::drop_dead_events(tx.conn(), &row.id).await?;
        if let Some(own) = deleted.iter_mut().find(|store| store.service == "tenancy") {
            own.tables.push(Table { name: "control.outbox".into(), rows });
        }
        let rows: i64 = deleted.iter().flat_map(|s| &s.tables).map(|t| t.rows).sum();
        let receipt = self.receipt_key.sign(&Receipt::new(&row, deleted, now, self.deletion.backups))?;
        let owners: Vec<&str> = row.purge_owners.iter().map(|o| o.id.as_str()).collect();
        receipts::insert(tx.conn(), &row.id, &owners, &receipt, now).await?;
        orgs::forget(tx.conn(), &row.id, now + SLUGS_HELD).await?;
        let ctx = RequestCtx::service("tenancy", &*self.clock);
        let details = [("rows", rows.to_string()), ("requested_by", row.deletion_requested_by.clone())];
        self.audit_platform(tx.conn(), &ctx, "org.purged", ("org", &row.id), &details).await?;
        let document = receipt.document()?;
        for owner in row.purge_owners.iter() {
            let mail = Mail::purged(&owner.email, &row.slug, &row.id, &document);
            mail::push(tx.conn(), &ctx, self, &mail).await?;
        }
        tx.commit().await
    }
}

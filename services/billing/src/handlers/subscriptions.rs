//! Which plan an organization is on.

use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::time::to_proto;
use nitejar_proto::billing::v1 as pb;
use nitejar_proto::billing::v1::subscriptions_server::Subscriptions;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::domain::meter::Meter;
use crate::domain::period::Period;
use crate::domain::quota::Level;
use crate::quota::Quota;
use crate::store::meters;
use crate::store::subscription::{self, SubscriptionRow};

#[tonic::async_trait]
impl Subscriptions for Service {
    async fn get_subscription(
        &self,
        request: Request<pb::GetSubscriptionRequest>,
    ) -> Result<Response<pb::Subscription>, Status> {
        let ctx = ctx(&request)?;
        let mut tx = self.quota.db.tenant_read(&ctx).await?;
        let row = subscription::get(tx.conn()).await.map_err(Error::from)?;
        tx.commit().await?;
        Ok(Response::new(self.to_pb(&row)?))
    }

    async fn set_plan(
        &self,
        request: Request<pb::SetPlanRequest>,
    ) -> Result<Response<pb::Subscription>, Status> {
        let ctx = ctx(&request)?;
        let id = request.into_inner().plan;
        let plan = self.quota.catalogue.newest(&id).cloned();
        let plan = plan.ok_or_else(|| Error::invalid("/plan", "must be a plan on offer"))?;
        let (quota, now) = (&self.quota, self.quota.clock.now());
        let mut tx = quota.db.tenant(&ctx).await?;
        let before = subscription::lock(tx.conn()).await.map_err(Error::from)?;
        if (before.plan.as_str(), before.plan_version) != (plan.id.as_str(), plan.version) {
            subscription::set_plan(tx.conn(), &plan.id, plan.version, now).await.map_err(Error::from)?;
            // Under the new limit a warning is due again only when the level is below it now.
            for meter in Meter::ALL {
                let period = Quota::period(meter, now);
                let mut row = meters::lock(tx.conn(), &period, meter).await.map_err(Error::from)?;
                let level = Level { used: row.used, reserved: row.reserved, limit: plan.limit(meter) };
                if !level.warns() {
                    row.warned_at = None;
                }
                if level.free() > 0 {
                    row.blocked_at = None;
                }
                meters::save(tx.conn(), &period, &row).await.map_err(Error::from)?;
            }
            let details = [("from", before.plan), ("to", plan.id.clone())];
            let target = ("subscription", ctx.tenant()?.as_str());
            let action = "subscription.plan_changed";
            nitejar_db::audit::push(tx.conn(), &ctx, &*quota.clock, action, target, &details).await?;
            nitejar_db::outbox::push(tx.conn(), &ctx, &*quota.clock, crate::notify::TOPIC, "", &[]).await?;
        }
        let row = subscription::get(tx.conn()).await.map_err(Error::from)?;
        tx.commit().await?;
        Ok(Response::new(self.to_pb(&row)?))
    }
}

impl Service {
    fn to_pb(&self, row: &SubscriptionRow) -> Result<pb::Subscription> {
        let period = Period::of(self.quota.clock.now());
        Ok(pb::Subscription {
            plan: Some(self.quota.catalogue.version(&row.plan, row.plan_version)?.to_proto()),
            state: row.state.clone(),
            changed_at: Some(to_proto(row.changed_at)),
            period_start: Some(to_proto(period.start())),
            period_end: Some(to_proto(period.end())),
        })
    }
}

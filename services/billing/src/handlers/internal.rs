//! Quota decisions for other services.

use chrono::Duration;
use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::time::to_proto;
use nitejar_proto::billing::v1 as pb;
use nitejar_proto::billing::v1::billing_internal_server::BillingInternal;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::domain::meter::Meter;

/// The most keys of one request.
const MOST: usize = 500;

fn checked(meter: &str, keys: &[String]) -> Result<Meter> {
    if keys.len() > MOST || keys.iter().any(|k| k.is_empty() || k.len() > 128) {
        return Err(Error::invalid("/keys", "must be at most 500, of 1 to 128 characters each"));
    }
    Meter::parse(meter).ok_or_else(|| Error::invalid("/meter", "must be jobs or agents"))
}

#[tonic::async_trait]
impl BillingInternal for Service {
    async fn reserve(
        &self,
        request: Request<pb::ReserveRequest>,
    ) -> Result<Response<pb::ReserveResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let meter = checked(&r.meter, &r.keys)?;
        if !meter.is_live() && !(1..=172_800).contains(&r.ttl_seconds) {
            return Err(Error::invalid("/ttl_seconds", "must be 1 to 172800").into());
        }
        let ttl = (!meter.is_live()).then(|| Duration::seconds(i64::from(r.ttl_seconds)));
        let decided = self.quota.reserve(&ctx, meter, &r.keys, ttl).await?;
        let decisions =
            decided.allowed.into_iter().map(|(key, allowed)| pb::ReserveDecision { key, allowed });
        Ok(Response::new(pb::ReserveResponse {
            decisions: decisions.collect(),
            limit: decided.limit,
            plan: decided.plan,
        }))
    }

    async fn commit(
        &self,
        request: Request<pb::CommitRequest>,
    ) -> Result<Response<pb::CommitResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let meter = checked(&r.meter, &r.keys)?;
        if meter.is_live() {
            return Err(Error::invalid("/meter", "must be jobs: what exists is not counted for good").into());
        }
        self.quota.commit(&ctx, meter, &r.keys).await?;
        Ok(Response::new(pb::CommitResponse {}))
    }

    async fn release(
        &self,
        request: Request<pb::ReleaseRequest>,
    ) -> Result<Response<pb::ReleaseResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let meter = checked(&r.meter, &r.keys)?;
        self.quota.release(&ctx, meter, &r.keys).await?;
        Ok(Response::new(pb::ReleaseResponse {}))
    }

    async fn get_entitlements(
        &self,
        request: Request<pb::GetEntitlementsRequest>,
    ) -> Result<Response<pb::GetEntitlementsResponse>, Status> {
        let ctx = ctx(&request)?;
        let mut tx = self.quota.db.tenant_read(&ctx).await?;
        let plan = self.quota.plan(&mut tx).await?;
        tx.commit().await?;
        let (features, seats_limit) = (plan.features.clone(), plan.seats_limit);
        Ok(Response::new(pb::GetEntitlementsResponse { plan: plan.id.clone(), features, seats_limit }))
    }

    async fn lease_api_calls(
        &self,
        request: Request<pb::LeaseApiCallsRequest>,
    ) -> Result<Response<pb::LeaseApiCallsResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let lease = self.quota.lease_api_calls(&ctx, &r.lease_id, r.spent, !r.settle_only).await?;
        Ok(Response::new(pb::LeaseApiCallsResponse {
            lease_id: lease.id,
            granted: lease.granted,
            expires_at: Some(to_proto(lease.expires_at)),
            limit: lease.limit,
        }))
    }
}

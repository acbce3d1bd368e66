//! What an organization's plan allows here. Billing decides; it is asked each time, for it happens rarely.

use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_proto::billing::v1::billing_internal_client::BillingInternalClient;
use nitejar_proto::billing::v1::{GetEntitlementsRequest, GetEntitlementsResponse};

use crate::Service;

impl Service {
    pub(crate) async fn entitlements(&self, ctx: &RequestCtx) -> Result<GetEntitlementsResponse> {
        let [_, billing, _] = &*self.tenants_of;
        let me = RequestCtx::service("tenancy", &*self.clock)
            .for_tenant(ctx.tenant()?.clone())
            .with_request_id(&ctx.request_id);
        let request = billing.request(&me, GetEntitlementsRequest {})?;
        Ok(BillingInternalClient::new(billing.channel()).get_entitlements(request).await?.into_inner())
    }

    /// Refuses what the plan does not have.
    pub(crate) async fn require_feature(&self, ctx: &RequestCtx, feature: &str) -> Result<()> {
        has_feature(&self.entitlements(ctx).await?, feature)
    }

    /// Refuses giving any of these custom roles where the plan has none; none at all may be given anywhere.
    pub(crate) async fn may_have_roles(&self, ctx: &RequestCtx, role_ids: &[String]) -> Result<()> {
        if role_ids.is_empty() { Ok(()) } else { self.require_feature(ctx, CUSTOM_ROLES).await }
    }
}

/// Roles of an organization's own.
pub(crate) const CUSTOM_ROLES: &str = "custom_roles";

/// Refuses what the plan does not have.
pub(crate) fn has_feature(allowed: &GetEntitlementsResponse, feature: &str) -> Result<()> {
    if allowed.features.iter().any(|f| f == feature) {
        return Ok(());
    }
    Err(Error::new(
        Code::FeatureNotInPlan,
        format!("The plan {} does not have {feature}. GET /v1/plans tells which do.", allowed.plan),
    ))
}

//! An organization's life here.

use nitejar_proto::common::v1::tenants_server::Tenants;
use nitejar_proto::common::v1::{ProvisionTenantRequest, ProvisionTenantResponse};
use tonic::{Request, Response, Status};

use crate::Service;

#[tonic::async_trait]
impl Tenants for Service {
    async fn provision_tenant(
        &self,
        request: Request<ProvisionTenantRequest>,
    ) -> Result<Response<ProvisionTenantResponse>, Status> {
        let org = request.get_ref().org_id.parse().map_err(nitejar_common::Error::from)?;
        self.db.provision(&org).await?;
        Ok(Response::new(ProvisionTenantResponse {}))
    }
}

//! The plans on offer.

use nitejar_proto::billing::v1 as pb;
use nitejar_proto::billing::v1::plans_server::Plans;
use tonic::{Request, Response, Status};

use crate::Service;

#[tonic::async_trait]
impl Plans for Service {
    async fn list_plans(
        &self,
        _: Request<pb::ListPlansRequest>,
    ) -> Result<Response<pb::ListPlansResponse>, Status> {
        let plans = self.quota.catalogue.on_offer().into_iter().map(|p| p.to_proto()).collect();
        Ok(Response::new(pb::ListPlansResponse { plans }))
    }
}

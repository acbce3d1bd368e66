//! What an organization used.

use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::page;
use nitejar_common::time::to_proto;
use nitejar_proto::billing::v1 as pb;
use nitejar_proto::billing::v1::usage_server::Usage;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::domain::meter::Meter;
use crate::domain::period::Period;
use crate::store::{ledger, meters};

#[tonic::async_trait]
impl Usage for Service {
    async fn get_usage(
        &self,
        request: Request<pb::GetUsageRequest>,
    ) -> Result<Response<pb::UsageReport>, Status> {
        let ctx = ctx(&request)?;
        let wish = request.into_inner().period;
        let period =
            if wish.is_empty() { Some(Period::of(self.quota.clock.now())) } else { Period::parse(&wish) };
        let period = period.ok_or_else(|| Error::invalid("/period", "must be a month such as 2026-11"))?;
        let mut tx = self.quota.db.tenant_read(&ctx).await?;
        let plan = self.quota.plan(&mut tx).await?;
        let rows = meters::of_period(tx.conn(), &period.to_string()).await.map_err(Error::from)?;
        tx.commit().await?;
        let report = Meter::ALL.map(|meter| {
            let row = rows.iter().find(|r| r.meter == meter.as_str()).cloned().unwrap_or_default();
            // What exists is held as long as it exists: to a reader that is used.
            let (used, reserved) =
                if meter.is_live() { (row.used + row.reserved, 0) } else { (row.used, row.reserved) };
            pb::MeterUsage {
                meter: meter.as_str().to_owned(),
                used,
                reserved,
                limit: plan.limit(meter),
                warned_at: row.warned_at.map(to_proto),
                blocked_at: row.blocked_at.map(to_proto),
            }
        });
        Ok(Response::new(pb::UsageReport {
            period: period.to_string(),
            period_start: Some(to_proto(period.start())),
            period_end: Some(to_proto(period.end())),
            plan: plan.id.clone(),
            meters: report.into(),
        }))
    }

    async fn list_usage_entries(
        &self,
        request: Request<pb::ListUsageEntriesRequest>,
    ) -> Result<Response<pb::ListUsageEntriesResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        if !r.meter.is_empty() && Meter::parse(&r.meter).is_none() {
            return Err(Error::invalid("/meter", "must be jobs, agents or api_calls").into());
        }
        let size = page::size(r.page_size, 100, 500);
        let after = page::after(&r.page_token)?;
        let wrong = |_| Error::invalid("/page_token", "must be a next_page_token of an earlier answer");
        let after: i64 = if after.is_empty() { 0 } else { after.parse().map_err(wrong)? };
        let mut tx = self.quota.db.tenant_read(&ctx).await?;
        let rows = ledger::list(tx.conn(), &r.meter, after, size + 1).await.map_err(Error::from)?;
        tx.commit().await?;
        let (rows, next_page_token) = page::cut(rows, size, |row| row.sequence.to_string());
        let entries = rows.into_iter().map(|row| pb::UsageEntry {
            sequence: row.sequence,
            meter: row.meter,
            key: row.key,
            quantity: row.quantity,
            period: row.period,
            recorded_at: Some(to_proto(row.recorded_at)),
        });
        Ok(Response::new(pb::ListUsageEntriesResponse { entries: entries.collect(), next_page_token }))
    }
}

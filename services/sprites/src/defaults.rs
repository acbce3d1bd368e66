//! What an organization's settings say of its jobs, kept for a moment.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nitejar_common::RequestCtx;
use nitejar_common::error::Result;
use nitejar_common::id::OrgId;
use nitejar_proto::tenancy::v1::GetJobDefaultsRequest;
use nitejar_proto::tenancy::v1::tenancy_internal_client::TenancyInternalClient;

use crate::Service;
use crate::domain::agent::TIMEOUT;

/// So long a changed setting may go unnoticed.
const KEPT: Duration = Duration::from_secs(5);
/// So long tenancy is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Beyond so many organizations it starts anew: it must not grow for ever.
const MOST: usize = 10_000;

/// Organization → its limit, and since when that is known.
#[derive(Debug, Default)]
pub(crate) struct Defaults(Mutex<HashMap<OrgId, (Instant, u32)>>);

impl Service {
    /// The limit of one job's wall time in seconds, for agents that have none of their own. To be asked before a claim, whose
    /// lease runs.
    pub(crate) async fn default_timeout(&self, ctx: &RequestCtx) -> Result<u32> {
        let org = ctx.tenant()?;
        let known = self.defaults.0.lock().unwrap_or_else(PoisonError::into_inner).get(org).copied();
        if let Some((since, seconds)) = known
            && since.elapsed() < KEPT
        {
            return Ok(seconds);
        }
        let request =
            self.tenancy.request_within(&self.as_service(ctx)?, GetJobDefaultsRequest {}, PATIENCE)?;
        let asked = TenancyInternalClient::new(self.tenancy.channel()).get_job_defaults(request).await;
        let seconds = match asked {
            Ok(defaults) => match defaults.into_inner().timeout_seconds {
                0 => TIMEOUT,
                seconds => seconds,
            },
            // Jobs do not wait for a setting: what was known last is good enough for as long.
            Err(status) => {
                tracing::warn!(%org, code = ?status.code(), "the organization's settings are not to be had");
                known.map_or(TIMEOUT, |(_, seconds)| seconds)
            }
        };
        let mut all = self.defaults.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(org.clone(), (Instant::now(), seconds));
        Ok(seconds)
    }
}

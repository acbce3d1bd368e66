//! Leases of API calls: the gateway spends a chunk by itself and settles it later.

use chrono::Duration;
use nitejar_common::RequestCtx;
use nitejar_common::error::Result;
use nitejar_common::id::LeaseId;

use crate::domain::meter::Meter;
use crate::domain::period::Period;
use crate::domain::quota::{Level, lease_size};
use crate::quota::Quota;
use crate::store::{leases, ledger, meters};

/// How long a lease lives. The gateway settles well before.
const LIFETIME: Duration = Duration::seconds(120);

/// A lease as given.
#[derive(Debug)]
pub struct Lease {
    /// `lease_…`; empty when nothing was granted.
    pub id: String,
    /// Calls it allows.
    pub granted: i64,
    /// When it must be settled.
    pub expires_at: chrono::DateTime<chrono::Utc>,
    /// The month's limit; none: unlimited.
    pub limit: Option<i64>,
}

impl Quota {
    /// Settles one lease, if there is one, and gives another, if wished.
    pub async fn lease_api_calls(
        &self,
        ctx: &RequestCtx,
        settle: &str,
        spent: i64,
        renew: bool,
    ) -> Result<Lease> {
        let now = self.clock.now();
        let period = Period::of(now).to_string();
        let mut tx = self.db.tenant(ctx).await?;
        let limit = self.plan(&mut tx).await?.limit(Meter::ApiCalls);
        // The meters before the lease: the order in which everybody locks. A lease of last month needs both months.
        let mut old = None;
        if !settle.is_empty()
            && let Some(old_period) = leases::period(tx.conn(), settle).await?
            && old_period < period
        {
            old = Some((meters::lock(tx.conn(), &old_period, Meter::ApiCalls).await?, old_period));
        }
        let mut row = meters::lock(tx.conn(), &period, Meter::ApiCalls).await?;
        if !settle.is_empty()
            && let Some(lease) = leases::close(tx.conn(), settle, "settled").await?
        {
            let spent = spent.clamp(0, lease.granted);
            let target = match &mut old {
                Some((old_row, _)) => old_row,
                None => &mut row,
            };
            target.reserved -= lease.granted;
            if spent > 0 {
                target.used += spent;
                let keys = [lease.id];
                ledger::record(tx.conn(), Meter::ApiCalls, &keys, &[lease.period], &[spent], now).await?;
            }
        }
        let mut lease = Lease { id: String::new(), granted: 0, expires_at: now + LIFETIME, limit };
        if renew {
            lease.granted = lease_size(Level { used: row.used, reserved: row.reserved, limit });
            if lease.granted > 0 {
                lease.id = LeaseId::new(&*self.clock).to_string();
                row.reserved += lease.granted;
                leases::open(tx.conn(), &lease.id, &period, lease.granted, lease.expires_at).await?;
            }
            self.notice(&mut tx, ctx, &period, &mut row, limit, lease.granted == 0).await?;
        }
        if let Some((old_row, old_period)) = old {
            meters::save(tx.conn(), &old_period, &old_row).await?;
        }
        meters::save(tx.conn(), &period, &row).await?;
        tx.commit().await?;
        Ok(lease)
    }
}

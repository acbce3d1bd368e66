//! Gives back what callers held and never ended: they crashed.

use std::collections::BTreeSet;
use std::time::Duration;

use nitejar_common::RequestCtx;
use nitejar_common::error::Result;
use nitejar_db::Db;
use tokio_util::sync::CancellationToken;

use crate::domain::meter::Meter;
use crate::quota::Quota;
use crate::store::{due, leases, meters, reservations};

/// Looks every second for what is due.
pub(crate) async fn run(quota: &Quota, stop: CancellationToken) -> Result<()> {
    while !stop.is_cancelled() {
        for part in quota.db.parts() {
            if let Err(error) = turn(quota, part).await {
                tracing::warn!(error = %error.log_text(), "expiry; trying again");
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
    Ok(())
}

/// Ends what is due now in one of the databases. A pointer is deleted only after its tenant was looked at, so that a crash in between repeats.
pub(crate) async fn turn(quota: &Quota, part: &Db) -> Result<()> {
    loop {
        let mut tx = part.control().await?;
        let pointers = due::find(tx.conn(), quota.clock.now()).await?;
        tx.commit().await?;
        if pointers.is_empty() {
            return Ok(());
        }
        let mut troubled = BTreeSet::new();
        let tenants: BTreeSet<i64> = pointers.iter().map(|(_, tenant)| *tenant).collect();
        for tenant in tenants {
            if let Some(org) = part.org_of(tenant).await? {
                let ctx = RequestCtx::service("billing", &*quota.clock).for_tenant(org);
                // One tenant's trouble is not the others': its pointers stay and are found again.
                if let Err(error) = expire(quota, &ctx).await {
                    tracing::warn!(tenant, error = %error.log_text(), "not expired; trying again");
                    troubled.insert(tenant);
                }
            }
        }
        let ids: Vec<i64> =
            pointers.iter().filter(|(_, tenant)| !troubled.contains(tenant)).map(|(id, _)| *id).collect();
        let mut tx = part.control().await?;
        due::delete(tx.conn(), &ids).await?;
        tx.commit().await?;
        if !troubled.is_empty() {
            return Ok(());
        }
    }
}

async fn expire(quota: &Quota, ctx: &RequestCtx) -> Result<()> {
    let now = quota.clock.now();
    loop {
        let mut tx = quota.db.tenant(ctx).await?;
        let held = reservations::expired(tx.conn(), now).await?;
        tx.commit().await?;
        if held.is_empty() {
            break;
        }
        for meter in Meter::ALL {
            let keys: Vec<String> =
                held.iter().filter(|(m, _)| m == meter.as_str()).map(|(_, key)| key.clone()).collect();
            if !keys.is_empty() {
                quota.release(ctx, meter, &keys).await?;
            }
        }
    }
    let mut tx = quota.db.tenant(ctx).await?;
    for id in leases::expired(tx.conn(), now).await? {
        let Some(period) = leases::period(tx.conn(), &id).await? else { continue };
        let mut row = meters::lock(tx.conn(), &period, Meter::ApiCalls).await?;
        if let Some(lease) = leases::close(tx.conn(), &id, "expired").await? {
            row.reserved -= lease.granted;
            meters::save(tx.conn(), &period, &row).await?;
        }
    }
    tx.commit().await
}

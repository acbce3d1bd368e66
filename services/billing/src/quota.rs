//! Reservations: reserve → commit or release, each one transaction that locks the meter first. All callers of one
//! tenant and meter queue at that row, so no two of them can both take the last unit.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Duration, Utc};
use nitejar_common::RequestCtx;
use nitejar_common::clock::SharedClock;
use nitejar_common::error::Result;
use nitejar_db::{Db, TenantTx};

use crate::catalogue::Catalogue;
use crate::domain::meter::Meter;
use crate::domain::period::{LIVE, Period};
use crate::domain::quota::Level;
use crate::store::meters::MeterRow;
use crate::store::plans::PlanRow;
use crate::store::{ledger, meters, plans, reservations, subscription};

/// Decides about quota.
#[derive(Clone)]
pub struct Quota {
    /// The database.
    pub db: Db,
    /// The plans.
    pub catalogue: Catalogue,
    /// The time.
    pub clock: SharedClock,
}

/// What a batch of reservations came to.
#[derive(Debug)]
pub struct Decisions {
    /// Each key, in the order asked, and whether it is held.
    pub allowed: Vec<(String, bool)>,
    /// The limit that applied; none: unlimited.
    pub limit: Option<i64>,
    /// The plan that applied.
    pub plan: String,
}

impl Quota {
    /// Reads the plans.
    pub async fn open(db: Db) -> Result<Self> {
        let mut tx = db.control().await?;
        let catalogue = Catalogue::new(plans::all(tx.conn()).await?);
        tx.commit().await?;
        Ok(Self { clock: db.clock().clone(), db, catalogue })
    }

    /// The period of a meter at an instant.
    pub fn period(meter: Meter, now: DateTime<Utc>) -> String {
        if meter.is_live() { LIVE.to_owned() } else { Period::of(now).to_string() }
    }

    /// The plan of the bound tenant.
    pub async fn plan(&self, tx: &mut TenantTx) -> Result<&PlanRow> {
        let row = subscription::get(tx.conn()).await?;
        self.catalogue.version(&row.plan, row.plan_version)
    }

    /// Holds one unit for each key, in order, as long as the limit allows.
    pub async fn reserve(
        &self,
        ctx: &RequestCtx,
        meter: Meter,
        keys: &[String],
        ttl: Option<Duration>,
    ) -> Result<Decisions> {
        let now = self.clock.now();
        let period = Self::period(meter, now);
        let mut tx = self.db.tenant(ctx).await?;
        let plan = self.plan(&mut tx).await?;
        let limit = plan.limit(meter);
        let mut row = meters::lock(tx.conn(), &period, meter).await?;
        let known: HashMap<String, String> =
            reservations::lock(tx.conn(), meter, keys).await?.into_iter().map(|r| (r.key, r.state)).collect();

        let mut new: Vec<String> = Vec::new();
        let mut allowed = Vec::with_capacity(keys.len());
        for key in keys {
            let held = known.get(key).is_some_and(|state| state != "released") || new.contains(key);
            let level = Level { used: row.used, reserved: row.reserved, limit };
            let take = !held && level.free() > 0;
            if take {
                row.reserved += 1;
                new.push(key.clone());
            }
            allowed.push((key.clone(), held || take));
        }
        let refused = allowed.iter().any(|(_, ok)| !ok);
        if !new.is_empty() || refused {
            reservations::hold(tx.conn(), meter, &period, &new, ttl.map(|t| now + t)).await?;
            self.notice(&mut tx, ctx, &period, &mut row, limit, refused).await?;
            meters::save(tx.conn(), &period, &row).await?;
        }
        let plan = plan.id.clone();
        tx.commit().await?;
        Ok(Decisions { allowed, limit, plan })
    }

    /// Counts reserved keys for good: each once for ever, also when its reservation expired meanwhile.
    pub async fn commit(&self, ctx: &RequestCtx, meter: Meter, keys: &[String]) -> Result<()> {
        let now = self.clock.now();
        let current = Self::period(meter, now);
        let mut tx = self.db.tenant(ctx).await?;
        let (mut rows, held) = self.lock_for(&mut tx, meter, &current, keys).await?;
        let periods: Vec<String> =
            keys.iter().map(|k| held.get(k).map_or_else(|| current.clone(), |(p, _)| p.clone())).collect();
        let ones = vec![1i64; keys.len()];
        for (period, count) in ledger::record(tx.conn(), meter, keys, &periods, &ones, now).await? {
            if let Some(row) = rows.get_mut(&period) {
                row.used += count;
            }
        }
        unhold(&mut rows, &held);
        reservations::end(tx.conn(), meter, keys, "committed").await?;
        for (period, row) in &rows {
            meters::save(tx.conn(), period, row).await?;
        }
        tx.commit().await
    }

    /// Gives reserved keys back. What is committed stays counted. Who was refused before may ask again.
    pub async fn release(&self, ctx: &RequestCtx, meter: Meter, keys: &[String]) -> Result<()> {
        let current = Self::period(meter, self.clock.now());
        let mut tx = self.db.tenant(ctx).await?;
        let limit = self.plan(&mut tx).await?.limit(meter);
        let (mut rows, held) = self.lock_for(&mut tx, meter, &current, keys).await?;
        unhold(&mut rows, &held);
        reservations::end(tx.conn(), meter, keys, "released").await?;
        let mut room = false;
        for (period, row) in &rows {
            meters::save(tx.conn(), period, row).await?;
            let level = Level { used: row.used, reserved: row.reserved, limit };
            room |= *period == current && row.blocked_at.is_some() && level.free() > 0;
        }
        if room && meter == Meter::Jobs {
            nitejar_db::outbox::push(tx.conn(), ctx, &*self.clock, crate::notify::TOPIC, "", &[]).await?;
        }
        tx.commit().await
    }

    /// Locks the meters that these keys touch, in order of period, then the reservations: the order in which
    /// [`Self::reserve`] locks too, so that nobody waits in a circle.
    async fn lock_for(
        &self,
        tx: &mut TenantTx,
        meter: Meter,
        current: &str,
        keys: &[String],
    ) -> Result<(BTreeMap<String, MeterRow>, HashMap<String, (String, bool)>)> {
        // Keys of an earlier month are rare: look first which periods there are, lock, then look again under the lock.
        let mut periods: Vec<String> = reservations::periods(tx.conn(), meter, keys)
            .await?
            .into_iter()
            .chain([current.to_owned()])
            .collect();
        periods.sort();
        periods.dedup();
        let mut rows = BTreeMap::new();
        for period in periods {
            let row = meters::lock(tx.conn(), &period, meter).await?;
            rows.insert(period, row);
        }
        let held = reservations::lock(tx.conn(), meter, keys)
            .await?
            .into_iter()
            .map(|r| (r.key, (r.period, r.state == "held")))
            .collect();
        Ok((rows, held))
    }

    /// Warns once a period at 80 %, and says once that something was refused.
    pub async fn notice(
        &self,
        tx: &mut TenantTx,
        ctx: &RequestCtx,
        period: &str,
        row: &mut MeterRow,
        limit: Option<i64>,
        refused: bool,
    ) -> Result<()> {
        let now = self.clock.now();
        let level = Level { used: row.used, reserved: row.reserved, limit };
        let mut actions = Vec::new();
        if level.warns() && row.warned_at.is_none() {
            row.warned_at = Some(now);
            actions.push("quota.warning");
        }
        if refused && row.blocked_at.is_none() {
            row.blocked_at = Some(now);
            actions.push("quota.blocked");
        }
        for action in actions {
            let details = [
                ("meter", row.meter.clone()),
                ("period", period.to_owned()),
                ("limit", limit.map(|l| l.to_string()).unwrap_or_default()),
                ("level", (row.used + row.reserved).to_string()),
            ];
            nitejar_db::audit::push(tx.conn(), ctx, &*self.clock, action, ("meter", &row.meter), &details)
                .await?;
        }
        Ok(())
    }
}

/// Takes held keys off their meters.
fn unhold(rows: &mut BTreeMap<String, MeterRow>, held: &HashMap<String, (String, bool)>) {
    for (period, _) in held.values().filter(|(_, is_held)| *is_held) {
        if let Some(row) = rows.get_mut(period) {
            row.reserved -= 1;
        }
    }
}

//! The plans, read once: a version of a plan never changes.

use nitejar_common::error::{Error, Result};
use nitejar_proto::billing::v1 as pb;

use crate::domain::meter::Meter;
use crate::store::plans::PlanRow;

/// Every version of every plan.
#[derive(Clone, Debug)]
pub struct Catalogue(Vec<PlanRow>);

impl Catalogue {
    /// From the rows, cheapest plan first, newest version first.
    pub fn new(rows: Vec<PlanRow>) -> Self {
        Self(rows)
    }

    /// One version of a plan.
    pub fn version(&self, id: &str, version: i32) -> Result<&PlanRow> {
        self.0
            .iter()
            .find(|p| p.id == id && p.version == version)
            .ok_or_else(|| Error::internal(format!("plan {id} version {version} is gone")))
    }

    /// The newest version of a plan.
    pub fn newest(&self, id: &str) -> Option<&PlanRow> {
        self.0.iter().find(|p| p.id == id)
    }

    /// The newest version of each plan, cheapest first.
    pub fn on_offer(&self) -> Vec<&PlanRow> {
        let mut plans: Vec<&PlanRow> = Vec::new();
        for row in &self.0 {
            if !plans.iter().any(|p| p.id == row.id) {
                plans.push(row);
            }
        }
        plans
    }
}

impl PlanRow {
    /// The limit of a meter; none: unlimited.
    pub fn limit(&self, meter: Meter) -> Option<i64> {
        match meter {
            Meter::Jobs => self.jobs_limit,
            Meter::Agents => self.agents_limit,
            Meter::ApiCalls => self.api_calls_limit,
        }
    }

    /// The API's form.
    pub fn to_proto(&self) -> pb::Plan {
        pb::Plan {
            id: self.id.clone(),
            version: u32::try_from(self.version).unwrap_or(0),
            name: self.name.clone(),
            agents_limit: self.agents_limit,
            jobs_limit: self.jobs_limit,
            api_calls_limit: self.api_calls_limit,
            features: self.features.clone(),
            price_cents: self.price_cents,
            currency: self.currency.clone(),
            seats_limit: self.seats_limit,
        }
    }
}

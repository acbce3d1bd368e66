//! Requests under way at a time: what comes on top is refused at once, before queues grow, and no organization takes all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nitejar_common::error::{Code, Error, Result};
use nitejar_common::id::OrgId;

/// Counts what is under way.
#[derive(Debug)]
pub(crate) struct Shedding {
    most: usize,
    under_way: Arc<Mutex<UnderWay>>,
}

#[derive(Debug, Default)]
struct UnderWay {
    all: usize,
    by_org: HashMap<OrgId, usize>,
}

/// A place; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    under_way: Arc<Mutex<UnderWay>>,
    org: Option<OrgId>,
}

impl Shedding {
    /// At most so many, and half of them for one organization.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, under_way: Arc::default() }
    }

    /// A place, or a refusal.
    pub(crate) fn enter(&self, org: Option<&OrgId>) -> Result<Place> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let own = org.and_then(|org| under_way.by_org.get(org)).copied().unwrap_or_default();
        if under_way.all >= self.most || own >= self.most.div_ceil(2) {
            let detail = "Too much is under way at the moment. Try again as Retry-After says.";
            return Err(Error::new(Code::Overloaded, detail).retry_after(Duration::from_secs(1)));
        }
        under_way.all += 1;
        if let Some(org) = org {
            *under_way.by_org.entry(org.clone()).or_default() += 1;
        }
        Ok(Place { under_way: Arc::clone(&self.under_way), org: org.cloned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.all -= 1;
        let Some(org) = &self.org else { return };
        if let Some(own) = under_way.by_org.get_mut(org) {
            *own -= 1;
            if *own == 0 {
                under_way.by_org.remove(org);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nitejar_common::clock::SystemClock;

    use super::*;

    #[test]
    fn one_organization_leaves_room_for_others_and_places_come_back() {
        let shedding = Shedding::new(10);
        let (greedy, other) = (OrgId::new(&SystemClock), OrgId::new(&SystemClock));
        let places: Vec<Place> = (0..20).filter_map(|_| shedding.enter(Some(&greedy)).ok()).collect();
        assert_eq!(places.len(), 5);
        let more: Vec<Place> = (0..20).filter_map(|_| shedding.enter(Some(&other)).ok()).collect();
        assert_eq!(more.len(), 5);
        assert_eq!(shedding.enter(None).unwrap_err().code(), Code::Overloaded);
        drop(places);
        assert!(shedding.enter(Some(&greedy)).is_ok() && shedding.enter(None).is_ok());
        drop(more);
        assert!(shedding.under_way.lock().unwrap().by_org.is_empty());
    }
}

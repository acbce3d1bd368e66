//! Which organization is which number here.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use nitejar_common::error::{Error, Result};
use nitejar_common::id::OrgId;

use crate::{Db, errors};

/// Beyond so many the cache starts anew: it must not grow for ever.
const MOST: usize = 100_000;

/// A cache of the directory: an active organization's number never changes.
#[derive(Default)]
pub(crate) struct Directory {
    numbers: RwLock<HashMap<OrgId, i64>>,
}

impl Directory {
    fn get(&self, org: &OrgId) -> Option<i64> {
        self.numbers.read().unwrap_or_else(PoisonError::into_inner).get(org).copied()
    }

    pub(crate) fn put(&self, org: &OrgId, number: i64) {
        let mut numbers = self.numbers.write().unwrap_or_else(PoisonError::into_inner);
        if numbers.len() >= MOST {
            numbers.clear();
        }
        numbers.insert(org.clone(), number);
    }
}

impl Db {
    /// An active organization's number.
    pub(crate) async fn number(&self, org: &OrgId) -> Result<i64> {
        if let Some(number) = self.0.directory.get(org) {
            return Ok(number);
        }
        let found: Option<i64> =
            sqlx::query_scalar("SELECT number FROM control.tenants WHERE org_id = $1 AND state = 'active'")
                .bind(org.as_str())
                .fetch_optional(&self.0.control)
                .await
                .map_err(errors::from_sqlx)?;
        let number = found.ok_or_else(|| Error::not_found(format!("organization {org}")))?;
        self.0.directory.put(org, number);
        Ok(number)
    }

    /// The organization that a number is claimed by; none for a spare or an unknown number.
    pub async fn org_of(&self, number: i64) -> Result<Option<OrgId>> {
        let found: Option<String> =
            sqlx::query_scalar("SELECT org_id FROM control.tenants WHERE number = $1 AND state = 'active'")
                .bind(number)
                .fetch_optional(&self.0.control)
                .await
                .map_err(errors::from_sqlx)?;
        Ok(found.map(|text| text.parse()).transpose()?)
    }
}

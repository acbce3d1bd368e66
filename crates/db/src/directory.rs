//! Which organization is which number here.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use nitejar_common::error::{Error, Result};
use nitejar_common::id::OrgId;

use sqlx::AssertSqlSafe;

use crate::{Db, errors};

/// Beyond so many the cache starts anew: it must not grow for ever.
const MOST: usize = 100_000;

/// A cache of the directory: an organization's number never changes, until it is purged.
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

    pub(crate) fn forget(&self, org: &OrgId) {
        self.numbers.write().unwrap_or_else(PoisonError::into_inner).remove(org);
    }
}

/// What a tenant's state must be for its rows to be there.
const THERE: &str = "state IN ('active', 'suspended')";

impl Db {
    /// An organization's number, also while it is suspended.
    pub(crate) async fn number(&self, org: &OrgId) -> Result<i64> {
        if let Some(number) = self.0.directory.get(org) {
            return Ok(number);
        }
        let found: Option<i64> = sqlx::query_scalar(AssertSqlSafe(format!(
            "SELECT number FROM control.tenants WHERE org_id = $1 AND {THERE}"
        )))
        .bind(org.as_str())
        .fetch_optional(&self.0.control)
        .await
        .map_err(errors::from_sqlx)?;
        let number = found.ok_or_else(|| Error::not_found(format!("organization {org}")))?;
        self.0.directory.put(org, number);
        Ok(number)
    }

    /// Whether an organization was here, and is gone for ever.
    pub async fn was_purged(&self, org: &OrgId) -> Result<bool> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM control.tenants WHERE org_id = $1 AND state = 'purged')",
        )
        .bind(org.as_str())
        .fetch_one(&self.0.control)
        .await
        .map_err(errors::from_sqlx)
    }

    /// Whether an organization is or was here.
    pub async fn knows(&self, org: &OrgId) -> Result<bool> {
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM control.tenants WHERE org_id = $1)")
            .bind(org.as_str())
            .fetch_one(&self.0.control)
            .await
            .map_err(errors::from_sqlx)
    }

    /// The organization that a number is claimed by; none for a spare or an unknown number.
    pub async fn org_of(&self, number: i64) -> Result<Option<OrgId>> {
        let found: Option<String> = sqlx::query_scalar(AssertSqlSafe(format!(
            "SELECT org_id FROM control.tenants WHERE number = $1 AND {THERE}"
        )))
        .bind(number)
        .fetch_optional(&self.0.control)
        .await
        .map_err(errors::from_sqlx)?;
        Ok(found.map(|text| text.parse()).transpose()?)
    }
}

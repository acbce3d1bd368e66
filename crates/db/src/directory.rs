//! Which organization is which number, in which of a service's databases.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use nitejar_common::error::{Error, Result};
use nitejar_common::id::OrgId;

use sqlx::{AssertSqlSafe, PgConnection};

use crate::{Db, errors};

/// Beyond so many the cache starts anew: it must not grow for ever.
const MOST: usize = 100_000;

/// Where an organization's tables are.
#[derive(Clone, Copy)]
struct Place {
    /// Which of [`Db::parts`].
    part: usize,
    number: i64,
}

/// A cache of the directory: where an organization is never changes, until it is moved, restored or purged; then its role
/// is gone there, and who finds it gone looks anew.
#[derive(Default)]
pub(crate) struct Directory {
    places: RwLock<HashMap<OrgId, Place>>,
}

impl Directory {
    fn get(&self, org: &OrgId) -> Option<Place> {
        self.places.read().unwrap_or_else(PoisonError::into_inner).get(org).copied()
    }

    fn put(&self, org: &OrgId, place: Place) {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= MOST {
            places.clear();
        }
        places.insert(org.clone(), place);
    }

    pub(crate) fn forget(&self, org: &OrgId) {
        self.places.write().unwrap_or_else(PoisonError::into_inner).remove(org);
    }
}

/// What a tenant's state must be for its rows to be there.
const THERE: &str = "state IN ('active', 'suspended')";

fn is_there(state: &str) -> bool {
    matches!(state, "active" | "suspended")
}

/// It has left that very database for another one, or has not quite arrived there.
pub(crate) fn is_on_its_way(state: &str) -> bool {
    matches!(state, "arriving" | "moved")
}

pub(crate) fn on_its_way() -> Error {
    Error::unavailable().because("it is being moved to another database")
}

/// Its state where the connection looks, which nobody else changes until the transaction ends: who does so now is waited for.
pub(crate) async fn lock_state(conn: &mut PgConnection, org: &OrgId) -> Result<Option<String>> {
    sqlx::query_scalar("SELECT state FROM control.tenants WHERE org_id = $1 FOR UPDATE")
        .bind(org.as_str())
        .fetch_optional(conn)
        .await
        .map_err(errors::from_sqlx)
}

impl Db {
    /// Where an organization's rows are, also while it is suspended: the database, and its number there. Unavailable for
    /// the moment in which it is in neither of two.
    pub(crate) async fn place(&self, org: &OrgId) -> Result<(&Self, i64)> {
        if let Some(place) = self.0.directory.get(org) {
            return Ok((self.part(place.part)?, place.number));
        }
        // One round trip where there is one database. What one look says of its number and its state belongs together: a
        // second look may already see it arrived.
        let (name, number, state): (String, Option<i64>, Option<String>) = sqlx::query_as(
            "SELECT coalesce((SELECT database FROM control.placements WHERE org_id = $1), ''), number, state \
             FROM (SELECT) AS always LEFT JOIN control.tenants ON org_id = $1",
        )
        .bind(org.as_str())
        .fetch_one(&self.0.control)
        .await
        .map_err(errors::from_sqlx)?;
        let part = self.index(&name)?;
        let db = self.part(part)?;
        let found = if part == 0 { number.zip(state) } else { db.entry(org).await? };
        let number = match found {
            Some((number, state)) if is_there(&state) => number,
            Some((_, state)) if is_on_its_way(&state) => return Err(on_its_way()),
            // It may have gone on between the two looks.
            _ if part != 0 && self.placed_at(org).await?.as_deref() != Some(&*name) => {
                return Err(on_its_way());
            }
            _ => return Err(Error::not_found(format!("organization {org}"))),
        };
        self.0.directory.put(org, Place { part, number });
        Ok((db, number))
    }

    /// The database that an organization's schema is or was in, whatever became of it.
    pub async fn home_of(&self, org: &OrgId) -> Result<&Self> {
        if self.0.more.is_empty() {
            return Ok(self);
        }
        self.named(&self.placed_at(org).await?.unwrap_or_default())
    }

    async fn placed_at(&self, org: &OrgId) -> Result<Option<String>> {
        sqlx::query_scalar("SELECT database FROM control.placements WHERE org_id = $1")
            .bind(org.as_str())
            .fetch_optional(&self.0.control)
            .await
            .map_err(errors::from_sqlx)
    }

    /// The database that an organization is to have its schema in, for good: where there are the fewest.
    pub(crate) async fn placed(&self, org: &OrgId) -> Result<&Self> {
        if self.0.more.is_empty() {
            return Ok(self);
        }
        let known: Option<String> = sqlx::query_scalar(
            "SELECT coalesce((SELECT database FROM control.placements WHERE org_id = $1), \
             (SELECT '' FROM control.tenants WHERE org_id = $1))",
        )
        .bind(org.as_str())
        .fetch_one(&self.0.control)
        .await
        .map_err(errors::from_sqlx)?;
        if let Some(name) = known {
            return self.named(&name);
        }
        let mut fewest = (i64::MAX, "");
        let names = std::iter::once("").chain(self.0.more.iter().map(|(name, _)| name.as_str()));
        for (db, name) in self.parts().zip(names) {
            let sql = format!("SELECT count(*) FROM control.tenants WHERE {THERE}");
            let count: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_one(&db.0.control)
                .await
                .map_err(errors::from_sqlx)?;
            fewest = fewest.min((count, name));
        }
        // Of two at once the first one's choice holds.
        let name: String = sqlx::query_scalar(
            "INSERT INTO control.placements AS p (org_id, database) VALUES ($1, $2) \
             ON CONFLICT (org_id) DO UPDATE SET database = p.database RETURNING database",
        )
        .bind(org.as_str())
        .bind(fewest.1)
        .fetch_one(&self.0.control)
        .await
        .map_err(errors::from_sqlx)?;
        self.named(&name)
    }

    /// The same for one whose rows were another's: where that one is or was, so that what only one of two may have is
    /// refused by the database itself.
    pub(crate) async fn placed_like(&self, org: &OrgId, other: &OrgId) -> Result<&Self> {
        if !self.0.more.is_empty() {
            sqlx::query(
                "INSERT INTO control.placements (org_id, database) \
                 SELECT $1, database FROM (SELECT coalesce((SELECT database FROM control.placements WHERE org_id = $2), \
                    (SELECT '' FROM control.tenants WHERE org_id = $2)) AS database) its \
                 WHERE database IS NOT NULL AND NOT EXISTS (SELECT FROM control.tenants WHERE org_id = $1) \
                 ON CONFLICT (org_id) DO NOTHING",
            )
            .bind(org.as_str())
            .bind(other.as_str())
            .execute(&self.0.control)
            .await
            .map_err(errors::from_sqlx)?;
        }
        self.placed(org).await
    }

    /// Whether two are the same database.
    pub(crate) fn is(&self, other: &Self) -> bool {
        std::sync::Arc::ptr_eq(&self.0, &other.0)
    }

    /// The database of that name; the first one has none.
    pub(crate) fn named(&self, name: &str) -> Result<&Self> {
        self.part(self.index(name)?)
    }

    fn index(&self, name: &str) -> Result<usize> {
        let more = self.0.more.iter().position(|(known, _)| known == name).map(|i| i + 1);
        let unknown = || Error::internal(format!("the configuration names no database {name}"));
        if name.is_empty() { Ok(0) } else { more.ok_or_else(unknown) }
    }

    /// One of [`Db::parts`], in their order.
    pub fn part(&self, index: usize) -> Result<&Self> {
        self.parts().nth(index).ok_or_else(|| Error::internal("a database is gone from the configuration"))
    }

    pub(crate) async fn number_here(&self, org: &OrgId) -> Result<Option<i64>> {
        let sql = format!("SELECT number FROM control.tenants WHERE org_id = $1 AND {THERE}");
        sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(org.as_str())
            .fetch_optional(&self.0.control)
            .await
            .map_err(errors::from_sqlx)
    }

    /// Its number and its state in this very database.
    async fn entry(&self, org: &OrgId) -> Result<Option<(i64, String)>> {
        sqlx::query_as("SELECT number, state FROM control.tenants WHERE org_id = $1")
            .bind(org.as_str())
            .fetch_optional(&self.0.control)
            .await
            .map_err(errors::from_sqlx)
    }

    /// No organization is in a database that the configuration does not name.
    pub(crate) async fn check_placements(&self) -> Result<()> {
        let names: Vec<&str> = self.0.more.iter().map(|(name, _)| name.as_str()).collect();
        let lost: Option<String> = sqlx::query_scalar(
            "SELECT database FROM control.placements WHERE database <> '' AND database <> ALL ($1) LIMIT 1",
        )
        .bind(names)
        .fetch_optional(&self.0.control)
        .await
        .map_err(errors::from_sqlx)?;
        match lost {
            None => Ok(()),
            Some(name) => Err(Error::internal(format!(
                "organizations are in the database {name}: name it in database.more"
            ))),
        }
    }

    /// Whether an organization was here, and is gone for ever.
    pub async fn was_purged(&self, org: &OrgId) -> Result<bool> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM control.tenants WHERE org_id = $1 AND state = 'purged')",
        )
        .bind(org.as_str())
        .fetch_one(&self.home_of(org).await?.0.control)
        .await
        .map_err(errors::from_sqlx)
    }

    /// Whether an organization is or was here.
    pub async fn knows(&self, org: &OrgId) -> Result<bool> {
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM control.tenants WHERE org_id = $1)")
            .bind(org.as_str())
            .fetch_one(&self.home_of(org).await?.0.control)
            .await
            .map_err(errors::from_sqlx)
    }

    /// The number of an organization's schema in its database; none when it has nothing here.
    pub async fn number_of(&self, org: &OrgId) -> Result<Option<i64>> {
        self.home_of(org).await?.number_here(org).await
    }

    /// The organization that a number is claimed by in this very database; none for a spare, an unknown number, and one that
    /// is on its way.
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

//! One tenant of one service in a folder of files.
//!
//! | File | Holds |
//! |---|---|
//! | `NAME.copy` | a table of the tenant's schema, as PostgreSQL's COPY writes it, by primary key |
//! | `control.NAME.copy` | the tenant's rows of a table that tenants share, without whose they are |
//! | `manifest.json` | what was taken when, and of each file its rows and digests; written last: without it there is no archive |
//!
//! All of it is of one snapshot. Putting it back is one transaction, which ends only when what stands there then has
//! the digests that the manifest tells.

mod living;
mod others;
mod restore;
mod tables;
mod take;

use std::path::Path;

use chrono::{DateTime, Utc};
use nitejar_common::error::{Error, Result};
use serde::{Deserialize, Serialize};

pub use restore::{Adopt, Restored};

/// Of this module's form.
const FORMAT: u32 = 1;

/// What an archive holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of the form.
    pub format: u32,
    /// The service whose tables they are.
    pub service: String,
    /// Whose.
    pub org_id: String,
    /// Version of the tenant's schema.
    pub schema_version: i32,
    /// When the snapshot was taken.
    pub taken_at: DateTime<Utc>,
    /// The files.
    pub tables: Vec<Table>,
}

/// A table's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// `jobs`, or `control.job_pointers`.
    pub name: String,
    /// Its columns, in the file's order.
    pub columns: Vec<String>,
    /// Rows.
    pub rows: u64,
    /// SHA-256 of the file, hex.
    pub sha256: String,
    /// The same without what is bound to the organization: equal for the same rows of another. Empty for shared tables.
    pub portable_sha256: String,
}

impl Manifest {
    /// Reads it.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("manifest.json");
        let text = std::fs::read_to_string(&path)
            .map_err(|e| Error::invalid("/archive", format!("must hold a manifest.json: {e}")))?;
        let manifest: Self = serde_json::from_str(&text).map_err(|e| {
            Error::invalid("/archive", format!("must hold a manifest.json that can be read: {e}"))
        })?;
        if manifest.format != FORMAT {
            return Err(Error::invalid("/archive", format!("must be of the form {FORMAT}")));
        }
        Ok(manifest)
    }

    /// Table → digest of what is the same in another organization with the same rows.
    pub fn portable(&self) -> std::collections::BTreeMap<&str, &str> {
        let own = self.tables.iter().filter(|t| !t.portable_sha256.is_empty());
        own.map(|t| (t.name.as_str(), t.portable_sha256.as_str())).collect()
    }
}

fn file_name(table: &str) -> String {
    format!("{table}.copy")
}

//! An archive is put back. As another organization's: its secrets are bound to the id, so they are sealed anew. Over one that
//! lives: who may enter stays as it is now.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use nitejar_common::error::{Error, Result};
use nitejar_common::id::OrgId;
use nitejar_db::archive::Adopt;
use sqlx::PgConnection;

use crate::domain::envelope::{MasterKeys, Place};
use crate::store::{exports, living, secrets, support};

/// Holds the keys that opened them.
#[derive(Clone, Debug)]
pub struct Adoption(pub Arc<MasterKeys>);

impl Adopt for Adoption {
    fn adopt<'a>(
        &'a self,
        conn: &'a mut PgConnection,
        from: &'a OrgId,
        to: &'a OrgId,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut keys = HashMap::new();
            for (version, wrapped) in secrets::lock_data_keys(conn).await? {
                let old = self.0.unwrap_data_key(from, &wrapped)?;
                let (new, sealed) = self.0.new_data_key(to)?;
                secrets::rewrap(conn, version, &sealed).await?;
                keys.insert(version, (old, new));
            }
            for mut row in secrets::all_sealed(conn).await? {
                let (old, new) =
                    keys.get(&row.data_key).ok_or_else(|| Error::internal("a data key is not there"))?;
                let place = |org| Place { org, name: &row.name, version: row.version };
                let value = old.open(&row.ciphertext, place(from))?;
                row.ciphertext = new.seal(&value, place(to))?;
                secrets::reseal(conn, &row).await?;
            }
            // Exports hold the rows of the other one.
            exports::forget_all(conn, to.as_str()).await?;
            // Its owners approved access to the other one.
            support::revoke_all(conn, to.as_str()).await?;
            Ok(living::unverify_lost_domains(conn, to.as_str()).await?)
        })
    }

    fn note<'a>(&'a self, conn: &'a mut PgConnection, org: &'a OrgId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(living::note(conn, org.as_str()).await?) })
    }

    fn keep<'a>(&'a self, conn: &'a mut PgConnection, org: &'a OrgId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(living::keep(conn, org.as_str()).await?) })
    }
}

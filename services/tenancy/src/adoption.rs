//! An archive is put back. As another organization's: its secrets are bound to the id, so they are sealed anew. Over one that
//! lives: who may enter stays as it is now.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::id::OrgId;
use nitejar_db::archive::Adopt;
use sqlx::PgConnection;

use crate::domain::envelope::{MasterKeys, Place};
use crate::mail;
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
            living::note_master(conn, to.as_str(), &self.0.id()).await?;
            living::leave_behind(conn, from.as_str(), to.as_str()).await?;
            owned(conn).await?;
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

    fn renew<'a>(&'a self, conn: &'a mut PgConnection, org: &'a OrgId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            // The master key may have changed since, and the services know only the newest.
            for (version, wrapped) in secrets::lock_data_keys(conn).await? {
                secrets::rewrap(conn, version, &self.0.rewrap(org, &wrapped)?).await?;
            }
            living::note_master(conn, org.as_str(), &self.0.id()).await?;
            mail::reseal(conn, &self.0).await?;
            living::leave_behind(conn, org.as_str(), org.as_str()).await?;
            owned(conn).await
        })
    }
}

async fn owned(conn: &mut PgConnection) -> Result<()> {
    if living::is_owned(conn).await? {
        return Ok(());
    }
    let detail =
        "Nobody could own it: each of its owners of then has deleted their account, or has left since.";
    Err(Error::new(Code::Conflict, detail))
}

//! An archive of one organization becomes another's.

use futures_util::future::BoxFuture;
use nitejar_common::error::Result;
use nitejar_common::id::OrgId;
use nitejar_db::archive::Adopt;
use sqlx::PgConnection;

use crate::store::events;

/// The chain goes on with the id that its hashes cover.
#[derive(Clone, Copy, Debug)]
pub struct Adoption;

impl Adopt for Adoption {
    fn adopt<'a>(
        &'a self,
        conn: &'a mut PgConnection,
        from: &'a OrgId,
        _: &'a OrgId,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(events::adopt_chain(conn, from.as_str()).await?) })
    }

    /// The log of one that lives goes on: what happened since the backup happened.
    fn over_the_living(&self) -> bool {
        false
    }
}

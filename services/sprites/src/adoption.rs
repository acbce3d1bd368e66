//! An archive of one organization becomes another's.

use futures_util::future::BoxFuture;
use nitejar_common::error::Result;
use nitejar_common::id::OrgId;
use nitejar_db::archive::Adopt;
use sqlx::PgConnection;

use crate::store::{queue, sprites};

/// The Sprites went with the first organization: they are provisioned anew.
#[derive(Clone, Copy, Debug)]
pub struct Adoption;

impl Adopt for Adoption {
    fn adopt<'a>(
        &'a self,
        conn: &'a mut PgConnection,
        _: &'a OrgId,
        to: &'a OrgId,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            sprites::provision_all(conn, to.as_str()).await?;
            // Work that the first organization still has under the same ids is not done twice.
            Ok(queue::cancel_pointless(conn).await?)
        })
    }
}

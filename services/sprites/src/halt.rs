//! An organization's work stands still, or ends for ever.

use futures_util::future::BoxFuture;
use nitejar_common::RequestCtx;
use nitejar_common::error::{Error, Result};
use nitejar_common::id::OrgId;
use nitejar_db::life::Parting;

use crate::Service;
use crate::domain::job::Outcome;
use crate::endings::Attempt;
use crate::store::queue;
use crate::store::sprites::{self, SpriteRow};

impl Service {
    /// This service's own context in a Sprite's organization.
    pub(crate) async fn of_sprite(&self, row: &SpriteRow) -> Result<Option<RequestCtx>> {
        self.system(self.db.part(row.part)?, row.tenant_number).await
    }

    /// What a Sprite's agent is doing is taken from it: it begins anew when the organization's work goes on, and nothing is
    /// counted against it.
    pub(crate) async fn interrupt(&self, row: &SpriteRow) -> Result<()> {
        let Some(ctx) = self.of_sprite(row).await? else { return Ok(()) };
        let mut tx = self.db.tenant(&ctx).await?;
        let running = queue::lock_interrupted(tx.conn(), &row.agent_id).await?;
        let attempts = running.into_iter().map(|(id, agent_id, attempts, max_attempts)| Attempt {
            id,
            agent_id,
            work_item_id: String::new(),
            attempts,
            max_attempts,
            outcome: Outcome::Interrupted,
            reason: "org_suspended".into(),
            exit_code: None,
            output: String::new(),
        });
        self.end_attempts(&mut tx, &ctx, attempts.collect()).await?;
        tx.commit().await?;
        self.wake.ring([row.agent_id.as_str()]);
        Ok(())
    }
}

impl Parting for Service {
    fn part<'a>(&'a self, org: &'a OrgId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let left = sprites::destroy_all(&mut *self.db.control_of(org).await?, org.as_str()).await?;
            if left == 0 {
                return Ok(());
            }
            self.unsettled.notify_one();
            Err(Error::unavailable().because(format!("{left} of its Sprites are still there")))
        })
    }
}

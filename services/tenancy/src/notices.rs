//! Tells owners that a key ends soon, a week and a day before, so that nothing stands still by surprise.

use std::time::Duration;

use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Result};
use tokio_util::sync::CancellationToken;

use crate::Service;
use crate::mail::{self, Mail};
use crate::store::credentials::{self, Ending};
use crate::store::keys;

const EVERY: Duration = Duration::from_secs(10);

impl Service {
    pub(crate) async fn tell_of_ending_keys(&self, stop: CancellationToken) -> Result<()> {
        while !stop.is_cancelled() {
            if let Err(error) = self.tell_once().await {
                tracing::warn!(error = %error.log_text(), "owners are not told of ending keys; trying again");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        Ok(())
    }

    async fn tell_once(&self) -> Result<()> {
        let now = self.clock.now();
        let ending = credentials::ending(&mut *self.db.control_once().await?, now).await?;
        for key in ending {
            let to = match self.holders(&key).await {
                Ok(to) => to,
                // Purged meanwhile.
                Err(error) if error.code() == Code::NotFound => continue,
                Err(error) => return Err(error),
            };
            let ctx = RequestCtx::service("tenancy", &*self.clock);
            let mut tx = self.db.control().await?;
            // Of several replicas one tells.
            if credentials::note_told(tx.conn(), &key).await? {
                for email in to {
                    let mail = Mail::key_ends(&email, &key.name, &key.key_id, key.expires_at);
                    mail::push(tx.conn(), &ctx, self, &mail).await?;
                }
            }
            tx.commit().await?;
        }
        Ok(())
    }

    /// Who must hear that a key ends: its person, or the owners of its organization.
    async fn holders(&self, key: &Ending) -> Result<Vec<String>> {
        match (&key.user_id, &key.org_id) {
            (Some(user), _) => Ok(vec![self.user(user).await?.email]),
            (None, Some(org)) => {
                let ctx = RequestCtx::service("tenancy", &*self.clock).for_tenant(org.parse()?);
                let mut tx = self.db.tenant_read(&ctx).await?;
                let replaced = keys::is_replaced(tx.conn(), &key.key_id).await?;
                tx.commit().await?;
                if replaced {
                    return Ok(Vec::new()); // It ends because it was rotated.
                }
                Ok(self.owners(&ctx).await?.into_iter().map(|owner| owner.email).collect())
            }
            (None, None) => Ok(Vec::new()),
        }
    }
}

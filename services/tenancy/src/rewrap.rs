//! The master key changes while everything runs: what an earlier one wrapped or sealed, data keys and waiting mails, is
//! wrapped and sealed by the newest, one organization after another. Killed in between, it goes on with those that are left;
//! two replicas that do the same do it twice.

use std::time::Duration;

use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Result};
use nitejar_common::id::OrgId;
use tokio_util::sync::CancellationToken;

use crate::Service;
use crate::mail;
use crate::store::{mails, secrets};

/// How often to look; there is something once in a year.
const EVERY: Duration = Duration::from_secs(10);
/// Organizations at a time.
const BATCH: i64 = 100;

impl Service {
    pub(crate) async fn rewrap_data_keys(&self, stop: CancellationToken) -> Result<()> {
        while !stop.is_cancelled() {
            match self.rewrap_once(&stop).await {
                Ok(0) => {}
                Ok(done) => {
                    tracing::info!(done, "data keys and mails are under the newest master key");
                    continue;
                }
                Err(error) => {
                    tracing::warn!(error = %error.log_text(), "data keys are not wrapped anew; trying again")
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        Ok(())
    }

    /// Wraps the data keys of a batch of organizations anew; answers of how many.
    async fn rewrap_once(&self, stop: &CancellationToken) -> Result<usize> {
        let newest = self.master.id();
        let mut conn = self.db.control_once().await?;
        if secrets::newest_master(&mut conn, &newest).await? != newest {
            return Ok(0); // This replica is of before the change; the others do it.
        }
        let behind = secrets::wrapped_before(&mut conn, &newest, BATCH).await?;
        drop(conn);
        let mut done = self.reseal_mails().await?;
        for org in behind {
            if stop.is_cancelled() {
                break;
            }
            let id: OrgId = org.parse()?;
            match self.rewrap(&id, &newest).await {
                Ok(()) => done += 1,
                // It is being created, or purged.
                Err(error) if error.code() == Code::NotFound => {}
                Err(error) => {
                    tracing::error!(org, error = %error.log_text(), "data keys can't be wrapped anew")
                }
            }
        }
        Ok(done)
    }

    /// Mails that wait while there is more than one master key: a replica of before the change may still seal with its own.
    async fn reseal_mails(&self) -> Result<usize> {
        if !self.master.has_earlier() {
            return Ok(0);
        }
        let mut tx = self.db.control().await?;
        let (mut done, mut lost) = mail::reseal(tx.conn(), &self.master).await?;
        tx.commit().await?;
        let mut after = String::new();
        loop {
            let waiting = mails::orgs_with_waiting(&mut *self.db.control_once().await?, &after).await?;
            let Some(last) = waiting.last() else { break };
            after.clone_from(last);
            for org in waiting {
                let ctx = RequestCtx::service("tenancy", &*self.clock).for_tenant(org.parse()?);
                let mut tx = match self.db.tenant(&ctx).await {
                    Ok(tx) => tx,
                    // It was purged meanwhile, or is being moved: the next look finds it.
                    Err(error) if matches!(error.code(), Code::NotFound | Code::Unavailable) => continue,
                    Err(error) => return Err(error),
                };
                let (more, none) = mail::reseal(tx.conn(), &self.master).await?;
                tx.commit().await?;
                (done, lost) = (done + more, lost + none);
            }
        }
        if lost > 0 {
            tracing::error!(lost, "mails that no master key opens; put their key into former_master_keys");
        }
        Ok(done)
    }

    async fn rewrap(&self, org: &OrgId, newest: &str) -> Result<()> {
        let ctx = RequestCtx::service("tenancy", &*self.clock).for_tenant(org.clone());
        let mut tx = self.db.tenant(&ctx).await?;
        // In the order in which everybody locks.
        secrets::hold_data_keys(tx.conn()).await?;
        for (version, wrapped) in secrets::lock_data_keys(tx.conn()).await? {
            secrets::rewrap(tx.conn(), version, &self.master.rewrap(org, &wrapped)?).await?;
        }
        // Dead ones, too: what they say must not be told by a key that is thought to be gone.
        mail::reseal(tx.conn(), &self.master).await?;
        secrets::note_master(tx.conn(), newest).await?;
        tx.commit().await
    }
}

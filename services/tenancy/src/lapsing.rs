//! Who has a domain may change: it is its organization's for as long as the record stands that verified it. That is looked
//! at whenever something depends on it: when somebody joins by the domain, and when another organization shows that it is
//! theirs. Where the record is gone, the domain is to be verified anew, and its owners are told.

use nitejar_common::RequestCtx;
use nitejar_common::error::Result;
use nitejar_common::id::OrgId;

use crate::Service;
use crate::domain::domain_name;
use crate::mail::{self, Mail};
use crate::store::domains::{self, Holder};
use crate::store::{members, org};

/// Whether a challenge's value is among the texts of its record.
pub(crate) fn says(texts: &[String], value: &str) -> bool {
    texts.iter().any(|text| text.trim() == value)
}

impl Service {
    /// Whether the record of the holder's domain still stands; where it does not, the domain lapses. An error when nobody
    /// knows: then nobody joins, and nothing lapses.
    pub(crate) async fn stands(&self, ctx: &RequestCtx, holder: &Holder) -> Result<bool> {
        let mut tx = self.db.tenant_read(ctx).await?;
        let token = domains::still_opens(tx.conn(), holder).await?;
        tx.commit().await?;
        let Some(token) = token else { return Ok(false) };
        let (name, value) = domain_name::challenge(&holder.name, &token);
        let texts = self.dns.texts_for_joiner(&name).await?;
        let stands = says(&texts, &value);
        if !stands {
            self.lapse(ctx.tenant()?, &holder.name, &texts).await?;
        }
        Ok(stands)
    }

    /// Before another organization verifies it, by those texts of the DNS.
    pub(crate) async fn free_if_gone(&self, name: &str, texts: &[String]) -> Result<()> {
        match domains::org_of(&mut *self.db.control_once().await?, name).await? {
            Some(holder) => self.lapse(&holder.parse()?, name, texts).await,
            None => Ok(()),
        }
    }

    /// Takes a domain from an organization whose record is not among those texts of the DNS.
    async fn lapse(&self, org: &OrgId, name: &str, texts: &[String]) -> Result<()> {
        let ctx = RequestCtx::service("tenancy", &*self.clock).for_tenant(org.clone());
        let mut tx = self.db.tenant(&ctx).await?;
        let Some(row) = domains::lock_verified(tx.conn(), name).await? else { return Ok(()) };
        let (record, value) = domain_name::challenge(&row.name, &row.token);
        if says(texts, &value) {
            return Ok(());
        }
        domains::lapse(tx.conn(), &row).await?;
        self.audit_domain(&mut tx, &ctx, "domain.lapsed", &row, &[]).await?;
        let org = org::get(tx.conn()).await?.name;
        for owner in members::owners(tx.conn()).await? {
            let mail = Mail::domain_lapsed(&owner.email, &org, &row.name, &record, &value);
            mail::push(tx.conn(), &ctx, self, &mail).await?;
        }
        tx.commit().await
    }
}

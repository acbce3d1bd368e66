//! Who has a domain may change: it lets people in only while the record stands that verified it. That is looked at whenever
//! something depends on it.
//!
//! | when | the record is there | it is not | nobody knows |
//! |---|---|---|---|
//! | somebody joins by the domain | they join | they do not, and the owners are told once | they do not |
//! | another organization's record stands there | the domain stays | it is that organization's now | it stays |
//!
//! So a name server's one wrong answer keeps somebody out for a moment, and takes nothing from anybody.

use chrono::{DateTime, Utc};
use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::id::OrgId;
use nitejar_db::TenantTx;

use crate::Service;
use crate::domain::domain_name;
use crate::mail::{self, Mail};
use crate::store::domains::{self, DomainRow, Holder};
use crate::store::{members, org};

/// Whether a challenge's value is among the texts of its record.
pub(crate) fn says(texts: &[String], value: &str) -> bool {
    texts.iter().any(|text| text.trim() == value)
}

/// A challenge's token.
pub(crate) fn new_token() -> String {
    hex::encode(nitejar_common::rng::bytes::<16>())
}

impl Service {
    /// Whether the record of the holder's domain stands. An error when nobody knows.
    pub(crate) async fn stands(&self, ctx: &RequestCtx, holder: &Holder) -> Result<bool> {
        let mut tx = self.db.tenant_read(ctx).await?;
        let row = domains::still_opens(tx.conn(), holder).await?;
        tx.commit().await?;
        let Some(row) = row else { return Ok(false) };
        let (name, value) = domain_name::challenge(&row.name, &row.token);
        let stands = says(&self.dns.texts_for_joiner(ctx.tenant()?, &name).await?, &value);
        if stands == row.missed_at.is_some() {
            self.note_record(ctx.tenant()?, &row, stands).await?;
        }
        Ok(stands)
    }

    async fn note_record(&self, org: &OrgId, row: &DomainRow, stands: bool) -> Result<()> {
        let ctx = RequestCtx::service("tenancy", &*self.clock).for_tenant(org.clone());
        let mut tx = self.db.tenant(&ctx).await?;
        let missed_at = (!stands).then(|| self.clock.now());
        if domains::note_record(tx.conn(), row, missed_at).await? && !stands {
            self.audit_domain(&mut tx, &ctx, "domain.record_missing", row, &[]).await?;
            let (record, value) = domain_name::challenge(&row.name, &row.token);
            self.mail_owners(&mut tx, &ctx, |to, org| {
                Mail::domain_record_missing(to, org, &row.name, &record, &value)
            })
            .await?;
        }
        tx.commit().await
    }

    /// Before another organization verifies a domain by those texts, which the DNS said after `asked_at`: takes it from whoever
    /// holds it, unless their record is among them.
    pub(crate) async fn free_if_gone(
        &self,
        name: &str,
        texts: &[String],
        asked_at: DateTime<Utc>,
    ) -> Result<()> {
        let holder = domains::org_of(&mut *self.db.control_once().await?, name).await?;
        let Some(holder) = holder else { return Ok(()) };
        match self.lapse(&holder.parse()?, name, texts, asked_at).await {
            // Purged at this moment.
            Err(error) if error.code() == Code::NotFound => Ok(()),
            done => done,
        }
    }

    async fn lapse(
        &self,
        org: &OrgId,
        name: &str,
        texts: &[String],
        asked_at: DateTime<Utc>,
    ) -> Result<(), Error> {
        let ctx = RequestCtx::service("tenancy", &*self.clock).for_tenant(org.clone());
        let mut tx = self.db.tenant(&ctx).await?;
        // What was verified since was verified by what stands there now.
        let Some(row) = domains::lock_verified(tx.conn(), name, asked_at).await? else { return Ok(()) };
        if says(texts, &domain_name::challenge(&row.name, &row.token).1) {
            return Ok(());
        }
        // The old record was public: it brings the domain back to nobody.
        domains::lapse(tx.conn(), &row, &new_token()).await?;
        self.audit_domain(&mut tx, &ctx, "domain.lapsed", &row, &[]).await?;
        self.mail_owners(&mut tx, &ctx, |to, org| Mail::domain_lapsed(to, org, &row.name)).await?;
        tx.commit().await
    }

    async fn mail_owners(
        &self,
        tx: &mut TenantTx,
        ctx: &RequestCtx,
        mail: impl Fn(&str, &str) -> Mail,
    ) -> Result<()> {
        let org = org::get(tx.conn()).await?.name;
        for owner in members::owners(tx.conn()).await? {
            mail::push(tx.conn(), ctx, self, &mail(&owner.email, &org)).await?;
        }
        Ok(())
    }
}

//! Inviting somebody: the rules that one invitation and a table of them share.

use chrono::Duration;
use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::id::InvitationId;
use nitejar_common::key::{self, KeyKind};
use nitejar_common::permission::Role;
use nitejar_common::secret::Secret;
use nitejar_db::TenantTx;
use nitejar_db::errors::is_unique_violation;

use crate::Service;
use crate::mail::{self, Mail};
use crate::store::invitations::{self, InvitationRow};
use crate::store::{members, org};

/// Mails of one invitation, and of all to one address within a day.
pub(crate) const MOST_SENT: i32 = 10;
/// Mails of an organization's invitations within a day, however many seats it has.
const MOST_MAILS: i64 = 10_000;
/// How long one can be accepted.
pub(crate) const LIFETIME: Duration = Duration::days(7);

/// Members and pending invitations, against what the plan allows. Nobody else adds any until the transaction ends.
pub(crate) struct Seats {
    taken: i64,
    limit: Option<i64>,
}

impl Seats {
    /// `counting_pending`: an invitation takes a seat when it is made; accepting it takes none that was not counted.
    pub(crate) async fn lock(
        tx: &mut TenantTx,
        limit: Option<i64>,
        now: chrono::DateTime<chrono::Utc>,
        counting_pending: bool,
    ) -> Result<Self> {
        org::lock(tx.conn()).await?;
        let mut taken = members::count(tx.conn()).await?;
        if counting_pending {
            taken += invitations::count_pending(tx.conn(), now).await?;
        }
        Ok(Self { taken, limit })
    }

    /// Takes one, and the mail that its invitation goes with; or neither.
    pub(crate) async fn invite(
        &mut self,
        tx: &mut TenantTx,
        now: chrono::DateTime<chrono::Utc>,
    ) -> Result<()> {
        self.take()?;
        let mailed = self.mail(tx, now).await;
        if mailed.is_err() {
            self.taken -= 1;
        }
        mailed
    }

    /// Takes one more mail of an invitation: a revoked one frees its seat, and has been mailed.
    pub(crate) async fn mail(&self, tx: &mut TenantTx, now: chrono::DateTime<chrono::Utc>) -> Result<()> {
        let most = self.limit.map_or(MOST_MAILS, |seats| MOST_MAILS.min(20 + 4 * seats));
        if org::count_mail(tx.conn(), now, now - Duration::days(1), most).await? {
            return Ok(());
        }
        let detail =
            format!("The organization has sent {most} invitations within a day. Try again tomorrow.");
        Err(Error::new(Code::Conflict, detail))
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self) -> Result<()> {
        match self.limit {
            Some(limit) if self.taken >= limit => Err(Error::new(
                Code::SeatsLimit,
                format!("The plan has {limit} seats, and all are taken by members or pending invitations."),
            )),
            _ => {
                self.taken += 1;
                Ok(())
            }
        }
    }
}

impl Service {
    /// Writes an invitation, its mail and its event. The address must be normalized, the role and custom roles allowed.
    pub(crate) async fn invite(
        &self,
        tx: &mut TenantTx,
        ctx: &RequestCtx,
        email: String,
        role: Role,
        role_ids: Vec<String>,
    ) -> Result<(InvitationRow, Secret)> {
        let now = self.clock.now();
        let row = InvitationRow {
            id: InvitationId::new(&*self.clock).to_string(),
            email,
            role: role.as_str().to_owned(),
            role_ids,
            state: "pending".into(),
            accepted_by: None,
            expires_at: now + LIFETIME,
            created_at: now,
            sent: 1,
        };
        let token = key::generate(KeyKind::Invitation);
        invitations::revoke_expired(tx.conn(), &row.email, now).await?;
        let hash = key::sha256(token.expose());
        invitations::insert(tx.conn(), &row, &hash, &ctx.actor.id).await.map_err(|e| {
            if is_unique_violation(&e, "invitations_pending") { is_invited() } else { e.into() }
        })?;
        self.mail_invitation(tx, ctx, &row, &token).await?;
        let details =
            [("email", row.email.clone()), ("role", row.role.clone()), ("roles", row.role_ids.join(","))];
        let target = ("invitation", row.id.as_str());
        nitejar_db::audit::push(tx.conn(), ctx, &*self.clock, "invitation.created", target, &details).await?;
        Ok((row, token))
    }

    pub(crate) async fn mail_invitation(
        &self,
        tx: &mut TenantTx,
        ctx: &RequestCtx,
        row: &InvitationRow,
        token: &Secret,
    ) -> Result<()> {
        let name = org::get(tx.conn()).await?.name;
        let link = format!("{}/join#token={}", self.public_url, token.expose());
        let mail = Mail::invitation(&row.email, &ctx.actor.name, &name, &row.role, &link);
        mail::push(tx.conn(), ctx, self, &mail).await
    }
}

/// Those of these addresses that this organization invited often enough today.
pub(crate) async fn mailed_often(
    tx: &mut TenantTx,
    emails: &[String],
    now: chrono::DateTime<chrono::Utc>,
) -> Result<Vec<String>> {
    let since = now - Duration::days(1);
    Ok(invitations::mailed_often(tx.conn(), emails, since, MOST_SENT.into()).await?)
}

/// The address got enough mails.
pub(crate) fn is_mailed_often() -> Error {
    Error::new(
        Code::Conflict,
        format!("This address got {MOST_SENT} invitations within a day. Try again tomorrow."),
    )
}

/// The address has one that stands.
pub(crate) fn is_invited() -> Error {
    Error::new(Code::AlreadyExists, "This address has a pending invitation. Send it again, or revoke it.")
        .violation("/email", "must have no pending invitation")
}

/// The address is a member's.
pub(crate) fn is_member() -> Error {
    Error::new(Code::AlreadyExists, "This address is a member's already.")
        .violation("/email", "must be no member's")
}

//! Joining by one's address, at a domain that an organization has verified.
//!
//! | | `automatic` | `suggested` |
//! |---|---|---|
//! | when | at each sign-in | when they ask |
//! | who left | stays away | may come back |
//! | who was removed, or is invited | stays away; an invitation says more | the same |

use std::time::Duration;

use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_db::TenantTx;

use crate::Service;
use crate::inviting::Seats;
use crate::store::domains::{self, Holder};
use crate::store::invitations;
use crate::store::members::{self, MemberRow};
use crate::store::users::UserRow;

/// Nobody waits longer at their sign-in for an organization that does not answer; they join at the next one.
const AT_SIGN_IN: Duration = Duration::from_secs(3);

/// Why somebody stays out.
enum Out {
    /// They are in already, or were removed, or their domain opens nothing any more.
    Closed,
    /// They left by themselves.
    Left,
    /// An invitation waits for them.
    Invited,
}

impl Service {
    /// Who holds the domain of an address, and lets people in that way.
    pub(crate) async fn holder_of(&self, email: &str, joining: &[&str]) -> Result<Option<Holder>> {
        let Some((_, domain)) = email.rsplit_once('@') else { return Ok(None) };
        let holder = domains::holder(&mut *self.db.control_once().await?, domain).await?;
        Ok(holder.filter(|holder| joining.contains(&holder.joining.as_str())))
    }

    /// After a sign-in, which does not fail with it.
    pub(crate) async fn join_at_sign_in(&self, ctx: &RequestCtx, user: &UserRow) {
        let joined = tokio::time::timeout(AT_SIGN_IN, self.join_by_itself(ctx, user)).await;
        match joined {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = %error.log_text(), "did not join at this sign-in"),
            Err(_) => tracing::warn!("did not join at this sign-in: it took too long"),
        }
    }

    async fn join_by_itself(&self, ctx: &RequestCtx, user: &UserRow) -> Result<()> {
        let Some(holder) = self.holder_of(&user.email, &["automatic"]).await? else { return Ok(()) };
        let ctx = ctx.clone().for_tenant(holder.org_id.parse()?);
        let mut tx = self.db.tenant_read(&ctx).await?;
        // Mostly they are in, and nobody needs to be asked.
        let out = self.out(&mut tx, &holder, user).await?;
        tx.commit().await?;
        if out.is_some() || !self.stands(&ctx, &holder).await? {
            return Ok(());
        }
        let limit = self.entitlements(&ctx).await?.seats_limit;
        let mut tx = self.db.tenant(&ctx).await?;
        let mut seats = Seats::lock(&mut tx, limit, self.clock.now(), true).await?;
        if self.out(&mut tx, &holder, user).await?.is_some() || seats.take().is_err() {
            return Ok(());
        }
        self.let_in(&mut tx, &ctx, &holder, user).await?;
        tx.commit().await
    }

    /// Whether the caller may join the holder.
    pub(crate) async fn may_join(&self, tx: &mut TenantTx, holder: &Holder, user: &UserRow) -> Result<bool> {
        Ok(matches!(self.out(tx, holder, user).await?, None | Some(Out::Left)))
    }

    /// Joins when asked to, in a transaction that is still to be committed.
    pub(crate) async fn join(
        &self,
        ctx: &RequestCtx,
        holder: &Holder,
        user: &UserRow,
    ) -> Result<(TenantTx, MemberRow)> {
        let mut tx = self.db.tenant_read(ctx).await?;
        let may = self.may_join(&mut tx, holder, user).await?;
        tx.commit().await?;
        // Who may not anyway asks nobody's name servers.
        if may && !self.stands(ctx, holder).await? {
            let detail = format!(
                "The record that shows {} to be this organization's is missing. Ask its owners to put it back, or to invite you.",
                holder.name
            );
            return Err(Error::new(Code::DomainRecordMissing, detail));
        }
        let limit = self.entitlements(ctx).await?.seats_limit;
        let mut tx = self.db.tenant(ctx).await?;
        let mut seats = Seats::lock(&mut tx, limit, self.clock.now(), true).await?;
        match self.out(&mut tx, holder, user).await? {
            None | Some(Out::Left) => {}
            Some(Out::Closed) if members::get(tx.conn(), &user.id).await?.is_some() => {
                return Err(Error::new(Code::Conflict, "You are a member of this organization already."));
            }
            Some(Out::Closed) => return Err(not_joinable(&holder.org_id)),
            Some(Out::Invited) => {
                let detail = "An invitation waits for you: accept or decline it instead.";
                return Err(Error::new(Code::Conflict, detail));
            }
        }
        seats.take()?;
        let member = self.let_in(&mut tx, ctx, holder, user).await?;
        Ok((tx, member))
    }

    async fn out(&self, tx: &mut TenantTx, holder: &Holder, user: &UserRow) -> Result<Option<Out>> {
        let known = [user.email.clone()];
        let member = members::get(tx.conn(), &user.id).await?.is_some();
        let departure = members::departure(tx.conn(), &user.id, &user.email).await?;
        let invited = !invitations::pending_of(tx.conn(), &known, self.clock.now()).await?.is_empty();
        Ok(match departure {
            _ if member || domains::still_opens(tx.conn(), holder).await?.is_none() => Some(Out::Closed),
            Some(true) => Some(Out::Closed),
            _ if invited => Some(Out::Invited),
            Some(false) => Some(Out::Left),
            None => None,
        })
    }

    async fn let_in(
        &self,
        tx: &mut TenantTx,
        ctx: &RequestCtx,
        holder: &Holder,
        user: &UserRow,
    ) -> Result<MemberRow> {
        let member = MemberRow {
            user_id: user.id.clone(),
            email: user.email.clone(),
            name: user.name.clone(),
            role: holder.role.clone(),
            joined_at: self.clock.now(),
        };
        if !members::insert(tx.conn(), &member).await? {
            return Err(Error::new(Code::Conflict, "You are a member of this organization already."));
        }
        let details = [
            ("domain", holder.name.clone()),
            ("joining", holder.joining.clone()),
            ("role", holder.role.clone()),
        ];
        let target = ("member", user.id.as_str());
        nitejar_db::audit::push(tx.conn(), ctx, &*self.clock, "member.joined_by_domain", target, &details)
            .await?;
        Ok(member)
    }
}

/// Another's, nobody's, or not for this person: they all look the same.
pub(crate) fn not_joinable(org: &str) -> Error {
    Error::not_found(format!("organization {org} that you could join"))
}

//! A person's whole account: what is kept of it, and its end.

use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::time::to_proto;
use nitejar_proto::tenancy::v1 as pb;

use crate::Service;
use crate::domain::email;
use crate::domain::life::State;
use crate::handlers::{key_to_pb, user_to_pb};
use crate::mail::{self, Mail};
use crate::store::orgs::Membership;
use crate::store::{credentials, members, orgs, sessions, users};

/// More than anybody is a member of.
const ALL: i64 = 10_000;
const JOINED: &str = "You became a member of an organization at this moment. Your other memberships have ended; try again to end the rest.";
const CREATING: &str =
    "An organization of yours is being created at this moment. Try again in a few seconds.";

impl Service {
    /// All that is kept about the caller, beside what organizations keep.
    pub(crate) async fn export_account(&self, ctx: &RequestCtx) -> Result<pb::ExportMeResponse> {
        let id = ctx.require_user()?;
        let user = self.user(id).await?;
        let now = self.clock.now();
        let mut conn = self.db.control_once().await?;
        let found = orgs::memberships(&mut conn, id).await?;
        let open = sessions::of_user(&mut conn, id, now, self.session.idle).await?;
        let keys = credentials::personal(&mut conn, id, "", ALL, now).await?;
        drop(conn);
        let mut memberships = Vec::with_capacity(found.len());
        for Membership { org_id, slug, role, .. } in found {
            let own = ctx.clone().for_tenant(org_id.parse()?);
            let mut tx = self.db.tenant_read(&own).await?;
            let joined_at = members::get(tx.conn(), id).await?.map(|m| to_proto(m.joined_at));
            tx.commit().await?;
            memberships.push(pb::MyMembership { org_id, slug, role, joined_at });
        }
        let sessions = open.into_iter().map(|s| pb::MySession {
            id: s.id,
            user_agent: s.user_agent,
            address: s.address,
            created_at: Some(to_proto(s.created_at)),
            last_seen_at: Some(to_proto(s.last_seen_at)),
        });
        Ok(pb::ExportMeResponse {
            user: Some(user_to_pb(user)),
            memberships,
            sessions: sessions.collect(),
            keys: keys.into_iter().map(key_to_pb).collect(),
        })
    }

    /// Ends the caller's account. Killed in between, it is repeated: memberships that ended stay ended.
    pub(crate) async fn delete_account(&self, ctx: &RequestCtx, confirmed: &str) -> Result<()> {
        let id = ctx.require_user()?;
        let user = self.user(id).await?;
        if email::normalized(confirmed, "/email")? != user.email {
            return Err(Error::invalid("/email", "must be the account's own address"));
        }
        let memberships = orgs::memberships(&mut *self.db.control_once().await?, id).await?;
        // All are looked at before one ends, so that what could be known before is refused as a whole.
        let mut last_of = Vec::new();
        for m in memberships.iter().filter(|m| m.state != State::Deleting.as_str()) {
            let own = ctx.clone().for_tenant(m.org_id.parse()?);
            let owners = self.owners(&own).await?;
            if owners.iter().all(|owner| owner.id == id) && !owners.is_empty() {
                last_of.push(m.slug.as_str());
            }
        }
        let creating = orgs::creating(&mut *self.db.control_once().await?, id).await?;
        if creating {
            return Err(Error::new(Code::Conflict, CREATING));
        }
        if !last_of.is_empty() {
            let which = last_of.join(", ");
            let detail =
                format!("You are the last owner of {which}. Hand over or delete what you own first.");
            return Err(Error::new(Code::LastOwner, detail));
        }
        for m in &memberships {
            self.leave_for_good(ctx, id, &m.org_id).await?;
        }
        let mut tx = self.db.control().await?;
        // Locked from here on, so that no organization and no key of theirs is begun any more, and none is joined.
        if !users::lock(tx.conn(), id).await? || orgs::creating(tx.conn(), id).await? {
            return Err(Error::new(Code::Conflict, CREATING));
        }
        if !orgs::memberships(tx.conn(), id).await?.is_empty() {
            return Err(Error::new(Code::Conflict, JOINED));
        }
        users::forget(tx.conn(), id, &user.email, self.clock.now()).await?;
        self.audit_platform(tx.conn(), ctx, "user.deleted", ("user", id), &[]).await?;
        mail::push(tx.conn(), ctx, self, &Mail::account_deleted(&user.email)).await?;
        tx.commit().await
    }

    async fn leave_for_good(&self, ctx: &RequestCtx, id: &str, org: &str) -> Result<()> {
        let own = ctx.clone().for_tenant(org.parse()?);
        // Its life is held still: one that is to be deleted needs no owner, and can't be restored without one.
        let mut life = self.db.control().await?;
        let row = orgs::lock(life.conn(), org).await?;
        let deleting = row.is_some_and(|row| row.state == State::Deleting.as_str());
        match self.end_membership(&own, id, "member.left", deleting).await {
            Ok(tx) => tx.commit().await?,
            // Ended by somebody else meanwhile.
            Err(error) if error.code() == Code::NotFound => {}
            Err(error) => return Err(error),
        }
        life.commit().await
    }
}

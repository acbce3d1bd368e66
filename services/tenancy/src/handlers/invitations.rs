//! Invitations.

use chrono::{DateTime, Utc};
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::key::{self, KeyKind};
use nitejar_common::page;
use nitejar_common::permission::Role;
use nitejar_common::time::to_proto;
use nitejar_common::{OrgState, RequestCtx};
use nitejar_db::TenantTx;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::invitations_server::Invitations;
use tonic::{Request, Response, Status};

use super::{members, roles::held};
use crate::Service;
use crate::domain::access::Held;
use crate::domain::{email, grants, table};
use crate::entitlements::{CUSTOM_ROLES, has_feature};
use crate::inviting::{self, LIFETIME, MOST_SENT, Seats};
use crate::store::invitations::{self, InvitationRow};
use crate::store::members::{self as rows, MemberRow};
use crate::store::roles::{self, RoleRow};
use crate::store::{keys, org, orgs};

#[tonic::async_trait]
impl Invitations for Service {
    async fn create_invitation(
        &self,
        request: Request<pb::CreateInvitationRequest>,
    ) -> Result<Response<pb::CreateInvitationResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let role = members::parse_role(&r.role)?;
        grants::may_give_now(&ctx, role)?;
        let email = email::normalized(&r.email, "/email")?;
        let allowed = self.entitlements(&ctx).await?;
        let limit = allowed.seats_limit;
        if !r.role_ids.is_empty() {
            has_feature(&allowed, CUSTOM_ROLES)?;
        }
        let mut tx = self.db.tenant(&ctx).await?;
        // In the order in which everybody locks: before the organization, and that before roles.
        roles::one_at_a_time(tx.conn()).await.map_err(Error::from)?;
        let mut seats = Seats::lock(&mut tx, limit, self.clock.now(), true).await?;
        let custom = self.roles_to_give(&mut tx, &ctx, r.role_ids, &[]).await?;
        if !rows::with_emails(tx.conn(), std::slice::from_ref(&email)).await.map_err(Error::from)?.is_empty()
        {
            return Err(inviting::is_member().into());
        }
        let known = [email.clone()];
        if !invitations::pending_of(tx.conn(), &known, self.clock.now())
            .await
            .map_err(Error::from)?
            .is_empty()
        {
            return Err(inviting::is_invited().into());
        }
        if !inviting::mailed_often(&mut tx, &known, self.clock.now()).await?.is_empty() {
            return Err(inviting::is_mailed_often().into());
        }
        seats.invite(&mut tx, self.clock.now()).await?;
        let custom = custom.into_iter().map(|c| c.id).collect();
        let (row, token) = self.invite(&mut tx, &ctx, email, role, custom).await?;
        let (token, now) = (token.expose().to_owned(), self.clock.now());
        tx.answer(pb::CreateInvitationResponse { invitation: Some(to_pb(row, now)), token }).await
    }

    async fn list_invitations(
        &self,
        request: Request<pb::ListInvitationsRequest>,
    ) -> Result<Response<pb::ListInvitationsResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let size = page::size(r.page_size, 50, 100);
        let after = page::after(&r.page_token)?;
        let states = match r.state.as_str() {
            "" => vec!["pending", "expired"],
            state => vec![state],
        };
        let now = self.clock.now();
        let mut tx = self.db.tenant_read(&ctx).await?;
        let rows = invitations::list(tx.conn(), &states, now, &after, size + 1).await.map_err(Error::from)?;
        tx.commit().await?;
        let (rows, next_page_token) = page::cut(rows, size, |i| i.id.clone());
        let invitations = rows.into_iter().map(|row| to_pb(row, now)).collect();
        Ok(Response::new(pb::ListInvitationsResponse { invitations, next_page_token }))
    }

    async fn revoke_invitation(
        &self,
        request: Request<pb::RevokeInvitationRequest>,
    ) -> Result<Response<pb::RevokeInvitationResponse>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().invitation_id;
        let mut tx = self.db.tenant(&ctx).await?;
        let row = invitations::lock(tx.conn(), id).await.map_err(Error::from)?;
        let row = row.ok_or_else(|| Error::not_found(format!("invitation {id}")))?;
        if row.state == "accepted" {
            return Err(
                Error::new(Code::Conflict, "It was accepted already. Remove the member instead.").into()
            );
        }
        if row.state == "pending" {
            invitations::end(tx.conn(), id, "revoked", None).await.map_err(Error::from)?;
            let details = [("email", row.email)];
            let target = ("invitation", id.as_str());
            nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "invitation.revoked", target, &details)
                .await?;
        }
        tx.commit().await?;
        Ok(Response::new(pb::RevokeInvitationResponse {}))
    }

    async fn accept_invitation(
        &self,
        request: Request<pb::AcceptInvitationRequest>,
    ) -> Result<Response<pb::AcceptInvitationResponse>, Status> {
        let ctx = ctx(&request)?;
        let user = self.user(ctx.require_user()?).await?;
        let hash = key::sha256(&request.get_ref().token);
        let unknown = || Error::not_found("invitation with this token");
        let mut control = self.db.control().await?;
        let org =
            invitations::org_of(control.conn(), &hash).await.map_err(Error::from)?.ok_or_else(unknown)?;
        let life = orgs::get(control.conn(), &org).await.map_err(Error::from)?;
        let life = life.and_then(|org| OrgState::parse(&org.state)).ok_or_else(unknown)?;
        control.commit().await?;
        let ctx = ctx.for_tenant(org.parse().map_err(Error::from)?);
        // Whether it matters is known later; but nothing is asked of others within a transaction.
        let allowed = self.entitlements(&ctx).await;
        let mut tx = self.db.tenant(&ctx).await?;
        roles::one_at_a_time(tx.conn()).await.map_err(Error::from)?;
        // In the order in which whoever invites and sends again locks.
        org::lock(tx.conn()).await.map_err(Error::from)?;
        let row =
            invitations::lock_by_token(tx.conn(), &hash).await.map_err(Error::from)?.ok_or_else(unknown)?;
        // Who holds the token but not the address learns no more than that it is not theirs. Who accepted it is known also after
        // they have left, when their address is forgotten.
        let accepted = row.accepted_by.as_deref() == Some(&user.id);
        if row.email != user.email && !accepted {
            return Err(unknown().into());
        }
        life.require_active()?;
        let allowed = allowed?;
        let limit = allowed.seats_limit;
        let now = self.clock.now();
        let again = row.state == "accepted" && accepted;
        if !again && row.state_at(now) != "pending" {
            return Err(unusable(row.state_at(now)).into());
        }
        let member = MemberRow {
            user_id: user.id,
            email: user.email,
            name: user.name,
            role: row.role.clone(),
            joined_at: now,
        };
        let member = if again {
            // It is good for joining once, not for coming back.
            let member = rows::lock(tx.conn(), &member.user_id).await.map_err(Error::from)?;
            member.ok_or_else(|| unusable("accepted"))?
        } else {
            let mut seats = Seats::lock(&mut tx, limit, now, false).await?;
            // As far as they still exist, and the plan still has any.
            let promised = match has_feature(&allowed, CUSTOM_ROLES) {
                Ok(()) => roles::lock(tx.conn(), &row.role_ids).await.map_err(Error::from)?,
                Err(_) => Vec::new(),
            };
            giver_still_may(&mut tx, &ctx, &row, &promised, now).await?;
            seats.take()?;
            if !rows::insert(tx.conn(), &member).await.map_err(Error::from)? {
                return Err(
                    Error::new(Code::Conflict, "You are a member of this organization already.").into()
                );
            }
            invitations::end(tx.conn(), &row.id, "accepted", Some(&member.user_id))
                .await
                .map_err(Error::from)?;
            let ids: Vec<String> = promised.into_iter().map(|c| c.id).collect();
            roles::set_of_member(tx.conn(), &member.user_id, &ids).await.map_err(Error::from)?;
            let details = [("role", row.role)];
            let target = ("invitation", row.id.as_str());
            nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "invitation.accepted", target, &details)
                .await?;
            member
        };
        let custom = roles::of_actor(tx.conn(), &member.user_id).await.map_err(Error::from)?;
        let member = members::to_pb(member, custom.into_iter().map(|c| c.id).collect());
        tx.answer(pb::AcceptInvitationResponse { org_id: org, member: Some(member) }).await
    }

    async fn resend_invitation(
        &self,
        request: Request<pb::ResendInvitationRequest>,
    ) -> Result<Response<pb::CreateInvitationResponse>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().invitation_id;
        let now = self.clock.now();
        let limit = self.entitlements(&ctx).await?.seats_limit;
        let mut tx = self.db.tenant(&ctx).await?;
        roles::one_at_a_time(tx.conn()).await.map_err(Error::from)?;
        let mut seats = Seats::lock(&mut tx, limit, now, true).await?;
        let row = invitations::lock(tx.conn(), id).await.map_err(Error::from)?;
        let mut row = row.ok_or_else(|| Error::not_found(format!("invitation {id}")))?;
        if row.state != "pending" {
            return Err(Error::new(Code::Conflict, format!("It was {} already.", row.state)).into());
        }
        if row.sent >= MOST_SENT {
            let detail = format!("It was sent {MOST_SENT} times. Revoke it, and make sure of the address.");
            return Err(Error::new(Code::Conflict, detail).into());
        }
        let known = [row.email.clone()];
        if !inviting::mailed_often(&mut tx, &known, now).await?.is_empty() {
            return Err(inviting::is_mailed_often().into());
        }
        // Nobody revives by it what they could not give.
        grants::may_give_now(&ctx, members::parse_role(&row.role)?)?;
        for custom in roles::lock(tx.conn(), &row.role_ids).await.map_err(Error::from)? {
            grants::hold_all(&ctx, &custom.permissions)?;
            grants::fresh_for(&ctx, &custom.permissions)?;
        }
        if row.state_at(now) == "expired" {
            // Somebody who joined by another way since is not asked once more; and its own seat was free again.
            let known = rows::with_emails(tx.conn(), std::slice::from_ref(&row.email)).await;
            if !known.map_err(Error::from)?.is_empty() {
                return Err(inviting::is_member().into());
            }
            seats.take()?;
        }
        seats.mail(&mut tx, now).await?;
        let token = key::generate(KeyKind::Invitation);
        row.expires_at = now + LIFETIME;
        let (hash, times) = (key::sha256(token.expose()), (now, row.expires_at));
        invitations::renew(tx.conn(), id, &hash, times, &ctx.actor.id).await.map_err(Error::from)?;
        self.mail_invitation(&mut tx, &ctx, &row, &token).await?;
        let details = [("email", row.email.clone())];
        let target = ("invitation", id.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "invitation.resent", target, &details).await?;
        let token = token.expose().to_owned();
        tx.answer(pb::CreateInvitationResponse { invitation: Some(to_pb(row, now)), token }).await
    }

    async fn import_invitations(
        &self,
        request: Request<pb::ImportInvitationsRequest>,
    ) -> Result<Response<pb::ImportInvitationsResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let role = if r.role.is_empty() { Role::Member } else { members::parse_role(&r.role)? };
        let table = table::read(&r.csv, role)?;
        let limit = self.entitlements(&ctx).await?.seats_limit;
        let now = self.clock.now();
        let mut tx = self.db.tenant(&ctx).await?;
        let mut seats = Seats::lock(&mut tx, limit, now, true).await?;
        let emails: Vec<String> =
            table.iter().filter_map(|row| Some(row.wish.as_ref().ok()?.0.clone())).collect();
        let known = rows::with_emails(tx.conn(), &emails).await.map_err(Error::from)?;
        let pending = invitations::pending_of(tx.conn(), &emails, now).await.map_err(Error::from)?;
        let often = inviting::mailed_often(&mut tx, &emails, now).await?;
        let mut answer = Vec::with_capacity(table.len());
        let mut invited = 0;
        for row in table {
            let mut told = pb::ImportedRow {
                line: u32::try_from(row.line).unwrap_or(u32::MAX),
                email: row.text,
                ..pb::ImportedRow::default()
            };
            let outcome = match row.wish {
                Err((outcome, detail)) => Err((outcome, detail)),
                Ok((email, role)) => {
                    role.as_str().clone_into(&mut told.role);
                    let said = |error: Error| error.detail().to_owned();
                    if known.contains(&email) {
                        Err(("already_member", said(inviting::is_member())))
                    } else if pending.contains(&email) {
                        Err(("already_invited", said(inviting::is_invited())))
                    } else if often.contains(&email) {
                        Err(("invited_too_often", said(inviting::is_mailed_often())))
                    } else if let Err(error) = grants::may_give_now(&ctx, role) {
                        let again = error.code() == Code::SignInAgain;
                        Err((if again { "sign_in_again" } else { "not_permitted" }, said(error)))
                    } else if let Err(error) = seats.invite(&mut tx, now).await {
                        match error.code() {
                            Code::SeatsLimit => Err(("no_seat", said(error))),
                            Code::Conflict => Err(("invited_too_often", said(error))),
                            _ => return Err(error.into()),
                        }
                    } else {
                        Ok(self.invite(&mut tx, &ctx, email, role, Vec::new()).await?.0)
                    }
                }
            };
            match outcome {
                Ok(made) => {
                    invited += 1;
                    told.outcome = "invited".into();
                    told.invitation_id = made.id;
                }
                Err((outcome, detail)) => {
                    outcome.clone_into(&mut told.outcome);
                    told.detail = detail;
                }
            }
            answer.push(told);
        }
        let details = [("rows", answer.len().to_string()), ("invited", invited.to_string())];
        let target = ("org", ctx.tenant()?.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "invitations.imported", target, &details)
            .await?;
        tx.answer(pb::ImportInvitationsResponse { rows: answer, invited }).await
    }

    async fn decline_invitation(
        &self,
        request: Request<pb::DeclineInvitationRequest>,
    ) -> Result<Response<pb::DeclineInvitationResponse>, Status> {
        let ctx = ctx(&request)?;
        let user = self.user(ctx.require_user()?).await?;
        let hash = key::sha256(&request.get_ref().token);
        let unknown = || Error::not_found("invitation with this token");
        let org =
            invitations::org_of(&mut *self.db.control_once().await?, &hash).await.map_err(Error::from)?;
        let ctx = ctx.for_tenant(org.ok_or_else(unknown)?.parse().map_err(Error::from)?);
        let mut tx = self.db.tenant(&ctx).await?;
        let row = invitations::lock_by_token(tx.conn(), &hash).await.map_err(Error::from)?;
        let theirs =
            |row: &InvitationRow| row.email == user.email || row.accepted_by.as_deref() == Some(&user.id);
        let row = row.filter(theirs).ok_or_else(unknown)?;
        let state = row.state_at(self.clock.now());
        if state == "pending" {
            invitations::end(tx.conn(), &row.id, "declined", None).await.map_err(Error::from)?;
            rows::depart(tx.conn(), &user.id, &user.email, false).await.map_err(Error::from)?;
            let target = ("invitation", row.id.as_str());
            nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "invitation.declined", target, &[])
                .await?;
        } else if state != "declined" {
            return Err(unusable(state).into());
        }
        tx.answer(pb::DeclineInvitationResponse {}).await
    }
}

/// An invitation hands on what its giver may give, not what they might once: refused when they are gone, or hold less by now.
/// They keep what they hold until the transaction ends.
async fn giver_still_may(
    tx: &mut TenantTx,
    ctx: &RequestCtx,
    row: &InvitationRow,
    promised: &[RoleRow],
    now: DateTime<Utc>,
) -> Result<()> {
    let mut giver = invitations::giver(tx.conn(), &row.id).await?;
    if giver.starts_with("user_") {
        rows::hold(tx.conn(), &giver).await?;
    } else if giver.starts_with("key_") {
        // A rotated key's invitations are its replacement's.
        giver = keys::successor(tx.conn(), &giver).await?;
        keys::lock(tx.conn(), &giver).await?;
    } else {
        return Ok(()); // An operator or a service; or it is older than such notes.
    }
    let permissions: Vec<String> = promised.iter().flat_map(|role| role.permissions.clone()).collect();
    let role = members::parse_role(&row.role)?;
    let may = |held: Held| grants::may_invite(&held.as_caller(ctx), role, &permissions).is_ok();
    if held(tx, &giver, now).await?.is_some_and(may) {
        return Ok(());
    }
    let detail = "Who invited you can't give you this any more. Ask to be invited again.";
    Err(Error::new(Code::InvitationUnusable, detail))
}

/// It can't be answered any more.
fn unusable(state: &str) -> Error {
    let how = if state == "expired" { "has expired".to_owned() } else { format!("was {state} already") };
    Error::new(Code::InvitationUnusable, format!("This invitation {how}. Ask for a new one."))
}

fn to_pb(row: InvitationRow, now: DateTime<Utc>) -> pb::Invitation {
    pb::Invitation {
        state: row.state_at(now).to_owned(),
        id: row.id,
        email: row.email,
        role: row.role,
        role_ids: row.role_ids,
        expires_at: Some(to_proto(row.expires_at)),
        created_at: Some(to_proto(row.created_at)),
    }
}

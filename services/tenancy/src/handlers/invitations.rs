//! Invitations.

use chrono::Duration;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::id::InvitationId;
use nitejar_common::key::{self, KeyKind};
use nitejar_common::page;
use nitejar_common::time::to_proto;
use nitejar_db::errors::is_unique_violation;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::invitations_server::Invitations;
use tonic::{Request, Response, Status};

use super::members;
use crate::Service;
use crate::domain::{email, grants};
use crate::store::invitations::{self, InvitationRow};
use crate::store::members::MemberRow;

const LIFETIME: Duration = Duration::days(7);

#[tonic::async_trait]
impl Invitations for Service {
    async fn create_invitation(
        &self,
        request: Request<pb::CreateInvitationRequest>,
    ) -> Result<Response<pb::CreateInvitationResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let role = members::parse_role(&r.role)?;
        grants::may_give(&ctx, role)?;
        let now = self.clock.now();
        let row = InvitationRow {
            id: InvitationId::new(&*self.clock).to_string(),
            email: email::normalized(&r.email, "/email")?,
            role: role.as_str().to_owned(),
            state: "pending".into(),
            accepted_by: None,
            expires_at: now + LIFETIME,
            created_at: now,
        };
        let token = key::generate(KeyKind::Invitation);
        let mut tx = self.db.tenant(&ctx).await?;
        invitations::revoke_expired(tx.conn(), &row.email, now).await.map_err(Error::from)?;
        invitations::insert(tx.conn(), &row, &key::sha256(token.expose())).await.map_err(|e| {
            if is_unique_violation(&e, "invitations_pending") {
                Error::new(
                    Code::AlreadyExists,
                    "This address has a pending invitation. Revoke it to send another one.",
                )
                .violation("/email", "must have no pending invitation")
            } else {
                e.into()
            }
        })?;
        let details = [("email", row.email.clone()), ("role", row.role.clone())];
        let target = ("invitation", row.id.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "invitation.created", target, &details)
            .await?;
        let token = token.expose().to_owned();
        tx.answer(pb::CreateInvitationResponse { invitation: Some(to_pb(row)), token }).await
    }

    async fn list_invitations(
        &self,
        request: Request<pb::ListInvitationsRequest>,
    ) -> Result<Response<pb::ListInvitationsResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let size = page::size(r.page_size, 50, 100);
        let after = page::after(&r.page_token)?;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let rows =
            invitations::pending(tx.conn(), self.clock.now(), &after, size + 1).await.map_err(Error::from)?;
        tx.commit().await?;
        let (rows, next_page_token) = page::cut(rows, size, |i| i.id.clone());
        let invitations = rows.into_iter().map(to_pb).collect();
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
        control.commit().await?;
        let ctx = ctx.for_tenant(org.parse().map_err(Error::from)?);
        let mut tx = self.db.tenant(&ctx).await?;
        let row =
            invitations::lock_by_token(tx.conn(), &hash).await.map_err(Error::from)?.ok_or_else(unknown)?;
        // Who holds the token but not the address learns no more than that it is not theirs.
        if row.email != user.email {
            return Err(unknown().into());
        }
        let now = self.clock.now();
        let again = row.state == "accepted" && row.accepted_by.as_deref() == Some(&user.id);
        let usable = row.state == "pending" && row.expires_at > now;
        if !again && !usable {
            return Err(Error::new(
                Code::InvitationUnusable,
                "It was revoked, used or has expired. Ask for a new one.",
            )
            .into());
        }
        let member = MemberRow {
            user_id: user.id,
            email: user.email,
            name: user.name,
            role: row.role.clone(),
            joined_at: now,
        };
        let member = if again {
            crate::store::members::lock(tx.conn(), &member.user_id)
                .await
                .map_err(Error::from)?
                .ok_or_else(unknown)?
        } else {
            if !crate::store::members::insert(tx.conn(), &member).await.map_err(Error::from)? {
                return Err(
                    Error::new(Code::Conflict, "You are a member of this organization already.").into()
                );
            }
            invitations::end(tx.conn(), &row.id, "accepted", Some(&member.user_id))
                .await
                .map_err(Error::from)?;
            let details = [("role", row.role)];
            let target = ("invitation", row.id.as_str());
            nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "invitation.accepted", target, &details)
                .await?;
            member
        };
        tx.answer(pb::AcceptInvitationResponse { org_id: org, member: Some(members::to_pb(member)) }).await
    }
}

fn to_pb(row: InvitationRow) -> pb::Invitation {
    pb::Invitation {
        id: row.id,
        email: row.email,
        role: row.role,
        state: row.state,
        expires_at: Some(to_proto(row.expires_at)),
        created_at: Some(to_proto(row.created_at)),
    }
}

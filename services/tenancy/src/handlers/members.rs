//! People in an organization.

use std::collections::HashMap;

use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::page;
use nitejar_common::permission::Role;
use nitejar_common::time::to_proto;
use nitejar_db::TenantTx;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::members_server::Members;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::domain::grants;
use crate::store::members::{self, MemberRow};
use crate::store::roles;

#[tonic::async_trait]
impl Members for Service {
    async fn list_members(
        &self,
        request: Request<pb::ListMembersRequest>,
    ) -> Result<Response<pb::ListMembersResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let size = page::size(r.page_size, 50, 100);
        let after = page::after(&r.page_token)?;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let rows =
            members::list(tx.conn(), r.query.trim(), &r.role, &after, size + 1).await.map_err(Error::from)?;
        let (rows, next_page_token) = page::cut(rows, size, |m| m.user_id.clone());
        let ids: Vec<String> = rows.iter().map(|m| m.user_id.clone()).collect();
        let mut custom = by_actor(roles::of_actors(tx.conn(), &ids).await.map_err(Error::from)?);
        tx.commit().await?;
        let members = rows.into_iter().map(|m| {
            let role_ids = custom.remove(&m.user_id).unwrap_or_default();
            to_pb(m, role_ids)
        });
        Ok(Response::new(pb::ListMembersResponse { members: members.collect(), next_page_token }))
    }

    async fn update_member(
        &self,
        request: Request<pb::UpdateMemberRequest>,
    ) -> Result<Response<pb::Member>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let role = parse_role(&r.role)?;
        let mut tx = self.db.tenant(&ctx).await?;
        let mut row = ending_membership(&mut tx, &ctx, &r.user_id, role == Role::Owner).await?;
        grants::may_give_now(&ctx, role)?;
        if row.role != role.as_str() {
            let details = [("from", row.role.clone()), ("to", role.as_str().to_owned())];
            members::set_role(tx.conn(), &row.user_id, role.as_str()).await.map_err(Error::from)?;
            let target = ("member", row.user_id.as_str());
            nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "member.role_changed", target, &details)
                .await?;
            role.as_str().clone_into(&mut row.role);
        }
        let custom = roles::of_actor(tx.conn(), &row.user_id).await.map_err(Error::from)?;
        tx.commit().await?;
        Ok(Response::new(to_pb(row, custom.into_iter().map(|r| r.id).collect())))
    }

    async fn remove_member(
        &self,
        request: Request<pb::RemoveMemberRequest>,
    ) -> Result<Response<pb::RemoveMemberResponse>, Status> {
        let ctx = ctx(&request)?;
        let tx = self.end_membership(&ctx, &request.get_ref().user_id, "member.removed", false).await?;
        tx.answer(pb::RemoveMemberResponse {}).await
    }

    async fn leave_org(
        &self,
        request: Request<pb::LeaveOrgRequest>,
    ) -> Result<Response<pb::LeaveOrgResponse>, Status> {
        let ctx = ctx(&request)?;
        let user = ctx.require_user()?.to_owned();
        let tx = self.end_membership(&ctx, &user, "member.left", false).await?;
        tx.answer(pb::LeaveOrgResponse {}).await
    }
}

impl Service {
    /// Ends a membership in a transaction that is still to be committed. `ownerless`: the organization itself ends, and needs
    /// no owner.
    pub(crate) async fn end_membership(
        &self,
        ctx: &RequestCtx,
        user: &str,
        action: &str,
        ownerless: bool,
    ) -> Result<TenantTx> {
        let mut tx = self.db.tenant(ctx).await?;
        let row = ending_membership(&mut tx, ctx, user, ownerless).await?;
        members::delete(tx.conn(), user).await?;
        members::depart(tx.conn(), user, &row.email, ctx.actor.id != user).await?;
        let details = [("role", row.role)];
        nitejar_db::audit::push(tx.conn(), ctx, &*self.clock, action, ("member", user), &details).await?;
        Ok(tx)
    }
}

/// The member, locked, after the two rules that every end of a role must keep: only an owner takes ownership away (from
/// others, with the proof that giving it needs), and the last owner stays one. The owners are locked first, so that two can't
/// leave at the same time.
async fn ending_membership(
    tx: &mut TenantTx,
    ctx: &RequestCtx,
    user: &str,
    stays_owner: bool,
) -> Result<MemberRow> {
    let owners = members::lock_owners(tx.conn()).await?;
    let row = members::lock(tx.conn(), user).await?;
    let row = row.ok_or_else(|| Error::not_found(format!("member {user}")))?;
    let role = parse_role(&row.role)?;
    if ctx.actor.id != user {
        grants::may_take(ctx, role)?;
        for custom in roles::of_actor(tx.conn(), user).await? {
            grants::hold_all(ctx, &custom.permissions)?;
        }
        if role == Role::Owner && !stays_owner {
            ctx.require_fresh()?;
        }
    }
    if role == Role::Owner && !stays_owner && owners.len() < 2 {
        return Err(Error::new(
            Code::LastOwner,
            "This is the organization's last owner. Make somebody else an owner first.",
        ));
    }
    Ok(row)
}

pub(crate) fn parse_role(name: &str) -> Result<Role> {
    Role::parse(name).ok_or_else(|| Error::invalid("/role", "must be owner, admin, member or viewer"))
}

/// (actor, role)s as a map.
pub(crate) fn by_actor(pairs: Vec<(String, String)>) -> HashMap<String, Vec<String>> {
    let mut map: HashMap<String, Vec<String>> = HashMap::new();
    for (actor, role) in pairs {
        map.entry(actor).or_default().push(role);
    }
    map
}

pub(crate) fn to_pb(m: MemberRow, role_ids: Vec<String>) -> pb::Member {
    pb::Member {
        user_id: m.user_id,
        email: m.email,
        name: m.name,
        role: m.role,
        role_ids,
        joined_at: Some(to_proto(m.joined_at)),
    }
}

//! Custom roles, and why somebody may do something.

use chrono::{DateTime, Utc};
use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::id::RoleId;
use nitejar_common::page;
use nitejar_common::permission::{self, Role};
use nitejar_common::time::to_proto;
use nitejar_db::TenantTx;
use nitejar_db::errors::is_unique_violation;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::roles_server::Roles;
use tonic::{Request, Response, Status};
use unicode_security::confusable_detection::skeleton;

use super::members;
use crate::Service;
use crate::domain::access::{self, Held};
use crate::domain::grants;
use crate::domain::settings::{check_name, check_optional_text};
use crate::entitlements::CUSTOM_ROLES;
use crate::store::roles::{self, RoleRow};
use crate::store::{keys, members as member_rows, orgs, ownership};

/// Custom roles of one organization.
const MOST: i64 = 50;

#[tonic::async_trait]
impl Roles for Service {
    async fn create_role(
        &self,
        request: Request<pb::CreateRoleRequest>,
    ) -> Result<Response<pb::Role>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let row = RoleRow {
            id: RoleId::new(&*self.clock).to_string(),
            name: r.name.trim().to_owned(),
            description: r.description,
            permissions: sorted(r.permissions),
            version: 1,
            created_at: self.clock.now(),
        };
        check(&ctx, &row, None)?;
        self.require_feature(&ctx, CUSTOM_ROLES).await?;
        let mut tx = self.db.tenant(&ctx).await?;
        roles::one_at_a_time(tx.conn()).await.map_err(Error::from)?;
        check_new_name(&mut tx, &row).await?;
        if roles::count(tx.conn()).await.map_err(Error::from)? >= MOST {
            let detail =
                format!("An organization has at most {MOST} custom roles. Delete one that is not used.");
            return Err(Error::new(Code::Conflict, detail).into());
        }
        roles::insert(tx.conn(), &row).await.map_err(name_taken)?;
        let details = [("name", row.name.clone()), ("permissions", row.permissions.join(","))];
        let target = ("role", row.id.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "role.created", target, &details).await?;
        tx.answer(to_pb(row)).await
    }

    async fn list_roles(
        &self,
        request: Request<pb::ListRolesRequest>,
    ) -> Result<Response<pb::ListRolesResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let size = page::size(r.page_size, 50, 100);
        let after = page::after(&r.page_token)?;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let rows = roles::list(tx.conn(), &after, size + 1).await.map_err(Error::from)?;
        tx.commit().await?;
        let (rows, next_page_token) = page::cut(rows, size, |r| r.id.clone());
        let fixed_roles = Role::ALL.into_iter().rev().map(fixed).collect();
        let roles = rows.into_iter().map(to_pb).collect();
        Ok(Response::new(pb::ListRolesResponse { roles, next_page_token, fixed_roles }))
    }

    async fn get_role(&self, request: Request<pb::GetRoleRequest>) -> Result<Response<pb::Role>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().role_id;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let row = roles::get(tx.conn(), id).await.map_err(Error::from)?;
        tx.commit().await?;
        Ok(Response::new(to_pb(row.ok_or_else(|| no_role(id))?)))
    }

    async fn update_role(
        &self,
        request: Request<pb::UpdateRoleRequest>,
    ) -> Result<Response<pb::Role>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let mask = r.update_mask.map(|m| m.paths).unwrap_or_default();
        // Asked before, for nothing is asked of others within a transaction; whether it matters is seen there.
        let in_plan = match mask.iter().any(|path| path == "permissions") {
            true => self.require_feature(&ctx, CUSTOM_ROLES).await,
            false => Ok(()),
        };
        let mut tx = self.db.tenant(&ctx).await?;
        roles::one_at_a_time(tx.conn()).await.map_err(Error::from)?;
        let before = lock(&mut tx, &r.role_id).await?;
        if !r.etag.is_empty() && r.etag != etag(before.version) {
            let detail = "It changed since you read it. Read it again, then repeat.";
            return Err(Error::new(Code::EtagMismatch, detail).into());
        }
        // Who does not hold all of it can't say what is left of it either.
        grants::hold_all(&ctx, &before.permissions)?;
        let mut row = before.clone();
        for path in mask {
            match path.as_str() {
                "name" => r.name.trim().clone_into(&mut row.name),
                "description" => row.description.clone_from(&r.description),
                "permissions" => row.permissions = sorted(r.permissions.clone()),
                other => {
                    let must = format!("must name fields that can change; {other} can't");
                    return Err(Error::invalid("/update_mask", must).into());
                }
            }
        }
        check(&ctx, &row, Some(&before))?;
        if row.name != before.name {
            check_new_name(&mut tx, &row).await?;
        }
        let same = (&row.name, &row.description, &row.permissions)
            == (&before.name, &before.description, &before.permissions);
        if !same {
            if row.permissions.iter().any(|p| !before.permissions.contains(p)) {
                in_plan?;
            }
            row.version += 1;
            roles::save(tx.conn(), &row).await.map_err(name_taken)?;
            let details = [
                ("name", row.name.clone()),
                ("from", before.permissions.join(",")),
                ("to", row.permissions.join(",")),
            ];
            let target = ("role", row.id.as_str());
            nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "role.updated", target, &details).await?;
        }
        tx.commit().await?;
        Ok(Response::new(to_pb(row)))
    }

    async fn delete_role(
        &self,
        request: Request<pb::DeleteRoleRequest>,
    ) -> Result<Response<pb::DeleteRoleResponse>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().role_id;
        let mut tx = self.db.tenant(&ctx).await?;
        roles::one_at_a_time(tx.conn()).await.map_err(Error::from)?;
        let row = lock(&mut tx, id).await?;
        grants::hold_all(&ctx, &row.permissions)?;
        roles::delete(tx.conn(), id).await.map_err(Error::from)?;
        let details = [("name", row.name), ("permissions", row.permissions.join(","))];
        let target = ("role", id.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "role.deleted", target, &details).await?;
        tx.commit().await?;
        Ok(Response::new(pb::DeleteRoleResponse {}))
    }

    async fn set_member_roles(
        &self,
        request: Request<pb::SetMemberRolesRequest>,
    ) -> Result<Response<pb::SetMemberRolesResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        // Asked before, for nothing is asked of others within a transaction. Who keeps what they have, or has less, needs no plan.
        let in_plan = self.may_have_roles(&ctx, &r.role_ids).await;
        let mut tx = self.db.tenant(&ctx).await?;
        roles::one_at_a_time(tx.conn()).await.map_err(Error::from)?;
        let member = member_rows::lock(tx.conn(), &r.user_id).await.map_err(Error::from)?;
        let member = member.ok_or_else(|| Error::not_found(format!("member {}", r.user_id)))?;
        grants::may_take(&ctx, members::parse_role(&member.role)?)?;
        let had = roles::of_actor(tx.conn(), &r.user_id).await.map_err(Error::from)?;
        let wished = self.roles_to_give(&mut tx, &ctx, r.role_ids, &had).await?;
        let taken = had.iter().filter(|had| !wished.iter().any(|w| w.id == had.id));
        for role in taken {
            grants::hold_all(&ctx, &role.permissions)?;
        }
        if wished.iter().any(|wished| !had.iter().any(|had| had.id == wished.id)) {
            in_plan?;
        }
        let ids = |list: &[RoleRow]| list.iter().map(|r| r.id.clone()).collect::<Vec<_>>();
        let (from, to) = (ids(&had), ids(&wished));
        if from != to {
            roles::set_of_member(tx.conn(), &r.user_id, &to).await.map_err(Error::from)?;
            let details = [("from", from.join(",")), ("to", to.join(","))];
            let target = ("member", r.user_id.as_str());
            let action = "member.roles_changed";
            nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, action, target, &details).await?;
        }
        tx.commit().await?;
        let grants = sorted(wished.into_iter().flat_map(|role| role.permissions).collect());
        Ok(Response::new(pb::SetMemberRolesResponse { role_ids: to, grants }))
    }

    async fn explain_access(
        &self,
        request: Request<pb::ExplainAccessRequest>,
    ) -> Result<Response<pb::ExplainAccessResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let question = access::question(&r.permission)?;
        if r.actor_id.starts_with("key_") && !ctx.may("keys.read") {
            return Err(Error::lacks("keys.read").into());
        }
        let org = ctx.tenant()?.as_str();
        let life = orgs::get(&mut *self.db.control_once().await?, org).await.map_err(Error::from)?;
        let org_state = life.map(|l| l.state).unwrap_or_default();
        let mut tx = self.db.tenant_read(&ctx).await?;
        let now = self.clock.now();
        let offer = ownership::get(tx.conn(), now).await.map_err(Error::from)?;
        let offered = offer.is_some_and(|offer| offer.to_user == r.actor_id);
        let held = held(&mut tx, &r.actor_id, now).await?.map(|held| Held { offered, ..held });
        tx.commit().await?;
        let is_key = r.actor_id.starts_with("key_");
        let verdict = access::explain(&question, held.as_ref(), is_key, &org_state);
        Ok(Response::new(pb::ExplainAccessResponse {
            allowed: verdict.allowed,
            reason: verdict.reason,
            permission: question.permission.to_owned(),
            role: held.as_ref().and_then(|h| h.role).map(Role::as_str).unwrap_or_default().into(),
            granted_by: verdict.granted_by,
            narrowed: verdict.narrowed,
            org_state,
        }))
    }
}

impl Service {
    /// The custom roles of these ids, all of which there are, and which the caller may give to who `had` those.
    pub(crate) async fn roles_to_give(
        &self,
        tx: &mut TenantTx,
        ctx: &RequestCtx,
        mut ids: Vec<String>,
        had: &[RoleRow],
    ) -> Result<Vec<RoleRow>> {
        ids.sort();
        ids.dedup();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let found = roles::lock(tx.conn(), &ids).await?;
        if let Some(missing) = ids.iter().find(|id| !found.iter().any(|role| role.id == **id)) {
            return Err(Error::invalid(
                "/role_ids",
                format!("must be custom roles of this organization; {missing} is none"),
            ));
        }
        for role in &found {
            grants::hold_all(ctx, &role.permissions)?;
        }
        for role in found.iter().filter(|role| !had.iter().any(|had| had.id == role.id)) {
            grants::fresh_for(ctx, &role.permissions)?;
        }
        Ok(found)
    }
}

/// What a member or a living key holds at this moment.
pub(crate) async fn held(tx: &mut TenantTx, actor: &str, now: DateTime<Utc>) -> Result<Option<Held>> {
    let found = if actor.starts_with("user_") {
        let member = member_rows::get(tx.conn(), actor).await?;
        member.map(|m| (m.role, Vec::new(), Vec::new()))
    } else {
        let key = keys::get(tx.conn(), actor).await?;
        key.filter(|k| k.lives_at(now)).map(|k| (k.role, k.scopes, k.networks))
    };
    let Some((role, scopes, networks)) = found else { return Ok(None) };
    let custom = roles::of_actor(tx.conn(), actor).await?;
    let custom = custom.into_iter().map(|c| (c.id, c.name, c.permissions)).collect();
    Ok(Some(Held { role: Role::parse(&role), custom, scopes, networks, offered: false }))
}

async fn lock(tx: &mut TenantTx, id: &str) -> Result<RoleRow> {
    let found = roles::lock(tx.conn(), &[id.to_owned()]).await?;
    found.into_iter().next().ok_or_else(|| no_role(id))
}

fn no_role(id: &str) -> Error {
    Error::not_found(format!("role {id}"))
}

/// `had`: what it is already, where it is not new.
fn check(ctx: &RequestCtx, role: &RoleRow, had: Option<&RoleRow>) -> Result<()> {
    if had.is_none_or(|had| had.name != role.name) {
        check_name(&role.name)?;
    }
    let had = had.map(|had| had.permissions.as_slice()).unwrap_or_default();
    check_optional_text(&role.description, "/description")?;
    if role.permissions.is_empty() {
        return Err(Error::invalid("/permissions", "must name at least one"));
    }
    for (i, name) in role.permissions.iter().enumerate() {
        if !permission::is_known(name) {
            return Err(Error::invalid(
                format!("/permissions/{i}"),
                "must be a permission; GET …/roles lists them",
            ));
        }
    }
    grants::hold_all(ctx, &role.permissions)?;
    let new: Vec<String> = role.permissions.iter().filter(|p| !had.contains(p)).cloned().collect();
    grants::fresh_for(ctx, &new)
}

/// No other role has the name, and none of the fixed roles, nor does it look like theirs. Nobody else gives one meanwhile: see
/// [`roles::one_at_a_time`].
async fn check_new_name(tx: &mut TenantTx, role: &RoleRow) -> Result<()> {
    let (name, others) = roles::compared_names(tx.conn(), &role.id, &role.name).await?;
    // How what stands before it is drawn makes no other name.
    let selects = |c: &char| ('\u{fe00}'..='\u{fe0f}').contains(c);
    let folded = |name: &str| {
        let shown: String = name.chars().filter(|c| !selects(c)).collect();
        shown.trim().to_lowercase()
    };
    let looks = |name: &str| skeleton(&folded(name)).collect::<String>().to_lowercase();
    if Role::ALL.into_iter().any(|fixed| looks(fixed.as_str()) == looks(&name)) {
        return Err(Error::invalid("/name", "must not be that of a fixed role, nor look like it"));
    }
    if others.iter().any(|other| folded(other) == folded(&name)) { Err(is_taken()) } else { Ok(()) }
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list.dedup();
    list
}

fn name_taken(error: sqlx::Error) -> Error {
    if is_unique_violation(&error, "roles_name") { is_taken() } else { error.into() }
}

fn is_taken() -> Error {
    Error::new(Code::AlreadyExists, "There is a role with this name.").violation("/name", "must be new")
}

fn etag(version: i64) -> String {
    format!("v{version}")
}

fn to_pb(role: RoleRow) -> pb::Role {
    pb::Role {
        id: role.id,
        name: role.name,
        description: role.description,
        permissions: role.permissions,
        fixed: false,
        etag: etag(role.version),
        created_at: Some(to_proto(role.created_at)),
    }
}

fn fixed(role: Role) -> pb::Role {
    let description = match role {
        Role::Owner => "Everything, with billing, ownership and deletion.",
        Role::Admin => "Everything but billing, ownership and deletion.",
        Role::Member => "Uses agents: runs and cancels jobs, reads.",
        Role::Viewer => "Reads, but not keys, secrets, bills or the audit log.",
    };
    pb::Role {
        id: role.as_str().into(),
        name: role.as_str().into(),
        description: description.into(),
        permissions: role.permissions().map(str::to_owned).collect(),
        fixed: true,
        ..pb::Role::default()
    }
}

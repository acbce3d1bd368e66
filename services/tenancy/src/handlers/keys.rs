//! An organization's API keys.

use chrono::{DateTime, Duration, Utc};
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::id::KeyId;
use nitejar_common::key::{self, KeyKind};
use nitejar_common::page;
use nitejar_common::permission::Role;
use nitejar_common::secret::Secret;
use nitejar_common::time::to_proto;
use nitejar_common::{ActorKind, RequestCtx};
use nitejar_db::TenantTx;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::keys_server::Keys;
use tonic::{Request, Response, Status};

use super::members::by_actor;
use super::users::expiry;
use crate::Service;
use crate::domain::grants::{self, Bounds};
use crate::domain::networks;
use crate::domain::settings::check_name;
use crate::store::keys::{self, KeyRow};
use crate::store::org;
use crate::store::roles::{self, RoleRow};

/// Living keys of one organization.
const MOST: i64 = 100;
/// A rotated key works on for so long, unless said otherwise.
const OVERLAP: u32 = 86_400;

#[tonic::async_trait]
impl Keys for Service {
    async fn create_key(
        &self,
        request: Request<pb::CreateKeyRequest>,
    ) -> Result<Response<pb::CreateKeyResponse>, Status> {
        let ctx = ctx(&request)?;
        let mut r = request.into_inner();
        let role = Role::parse(&r.role).filter(|role| *role != Role::Owner);
        let role = role.ok_or_else(|| Error::invalid("/role", "must be admin, member or viewer"))?;
        r.scopes.sort();
        r.scopes.dedup();
        let now = self.clock.now();
        self.may_have_roles(&ctx, &r.role_ids).await?;
        let mut tx = self.db.tenant(&ctx).await?;
        roles::one_at_a_time(tx.conn()).await.map_err(Error::from)?;
        let custom = self.roles_to_give(&mut tx, &ctx, r.role_ids, &[]).await?;
        let added = added(&custom);
        grants::key_scopes(&ctx, role, &added, &r.scopes)?;
        let role_ids: Vec<String> = custom.into_iter().map(|c| c.id).collect();
        let (row, secret) = self.new_key(KeyRow {
            id: String::new(),
            name: r.name,
            prefix: String::new(),
            role: role.as_str().to_owned(),
            scopes: r.scopes,
            expires_at: expiry(r.expires_at, now)?,
            revoked_at: None,
            created_at: now,
            created_by: ctx.actor.id.clone(),
            networks: networks::normalized(&r.allowed_networks)?,
            requests_per_minute: r.requests_per_minute.and_then(|n| i32::try_from(n).ok()),
            replaces: String::new(),
        });
        if let Some(own) = bounds_of_caller(&mut tx, &ctx).await? {
            grants::keep_within(&own, None, &bounds(&row))?;
        }
        self.add_key(&mut tx, &ctx, &row, &secret, &role_ids, "key.created").await?;
        let secret = secret.expose().to_owned();
        tx.answer(pb::CreateKeyResponse { key: Some(to_pb(row, None, role_ids)), secret }).await
    }

    async fn list_keys(
        &self,
        request: Request<pb::ListKeysRequest>,
    ) -> Result<Response<pb::ListKeysResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let size = page::size(r.page_size, 50, 100);
        let after = page::after(&r.page_token)?;
        let mut tx = self.db.tenant_read(&ctx).await?;
        let rows = keys::list(tx.conn(), &after, size + 1).await.map_err(Error::from)?;
        let (rows, next_page_token) = page::cut(rows, size, |(k, _)| k.id.clone());
        let ids: Vec<String> = rows.iter().map(|(k, _)| k.id.clone()).collect();
        let mut custom = by_actor(roles::of_actors(tx.conn(), &ids).await.map_err(Error::from)?);
        tx.commit().await?;
        let keys = rows.into_iter().map(|(k, used)| {
            let role_ids = custom.remove(&k.id).unwrap_or_default();
            to_pb(k, used, role_ids)
        });
        Ok(Response::new(pb::ListKeysResponse { keys: keys.collect(), next_page_token }))
    }

    async fn update_key(&self, request: Request<pb::UpdateKeyRequest>) -> Result<Response<pb::Key>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let mut tx = self.db.tenant(&ctx).await?;
        roles::one_at_a_time(tx.conn()).await.map_err(Error::from)?;
        let mut row = self.living(&mut tx, &r.key_id).await?;
        let before = row.clone();
        let custom = roles::of_actor(tx.conn(), &row.id).await.map_err(Error::from)?;
        for path in r.update_mask.map(|m| m.paths).unwrap_or_default() {
            match path.as_str() {
                "name" => row.name.clone_from(&r.name),
                "allowed_networks" => row.networks = networks::normalized(&r.allowed_networks)?,
                "requests_per_minute" => {
                    row.requests_per_minute = i32::try_from(r.requests_per_minute).ok().filter(|n| *n > 0);
                }
                other => {
                    let must = format!("must name fields that can change; {other} can't");
                    return Err(Error::invalid("/update_mask", must).into());
                }
            }
        }
        if row.name != before.name {
            check_name(&row.name)?;
        }
        let same = (&row.name, &row.networks, row.requests_per_minute)
            == (&before.name, &before.networks, before.requests_per_minute);
        if !same {
            // Whoever opens it to other networks, or lets it do more, holds all that it opens.
            let bound = (&row.networks, row.requests_per_minute);
            if bound != (&before.networks, before.requests_per_minute) && ctx.actor.id != row.id {
                held_all(&ctx, &row, &custom)?;
            }
            if let Some(own) = bounds_of_caller(&mut tx, &ctx).await? {
                grants::keep_within(&own, Some(&bounds(&before)), &bounds(&row))?;
            }
            // It is as if a key were made that reaches so far.
            if !bounds(&row).beyond(&bounds(&before)).is_empty() {
                ctx.require_fresh_browser()?;
            }
            keys::save(tx.conn(), &row).await.map_err(Error::from)?;
            let details = [
                ("name", row.name.clone()),
                ("networks", row.networks.join(",")),
                ("requests_per_minute", row.requests_per_minute.map_or_else(String::new, |n| n.to_string())),
            ];
            let target = ("key", row.id.as_str());
            nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "key.updated", target, &details).await?;
        }
        tx.commit().await?;
        Ok(Response::new(to_pb(row, None, custom.into_iter().map(|r| r.id).collect())))
    }

    async fn rotate_key(
        &self,
        request: Request<pb::RotateKeyRequest>,
    ) -> Result<Response<pb::CreateKeyResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let now = self.clock.now();
        let mut tx = self.db.tenant(&ctx).await?;
        roles::one_at_a_time(tx.conn()).await.map_err(Error::from)?;
        let mut old = self.living(&mut tx, &r.key_id).await?;
        let custom = roles::of_actor(tx.conn(), &old.id).await.map_err(Error::from)?;
        // A key that rotates itself gives nobody anything. Whoever else gets the new secret holds all that it opens.
        if ctx.actor.id != old.id {
            held_all(&ctx, &old, &custom)?;
            let opens = if old.scopes.is_empty() { added(&custom) } else { old.scopes.clone() };
            grants::fresh_for(&ctx, &opens)?;
        }
        // It ends soon; what was made like it now would end with it.
        if let Some(newer) = keys::replacement(tx.conn(), &old.id).await.map_err(Error::from)? {
            let lives = keys::get(tx.conn(), &newer).await.map_err(Error::from)?;
            let lives = lives.is_some_and(|newer| newer.lives_at(now));
            let then = if lives { "rotate that one" } else { "that one has ended, so make a new key" };
            let detail = format!("It was replaced by {newer} already: {then}.");
            return Err(Error::new(Code::Conflict, detail).into());
        }
        let expires_at = match r.expires_at {
            Some(at) => expiry(Some(at), now)?,
            None => old.expires_at,
        };
        let (row, secret) = self.new_key(KeyRow {
            created_at: now,
            created_by: ctx.actor.id.clone(),
            expires_at,
            replaces: old.id.clone(),
            ..old.clone()
        });
        if let Some(own) = bounds_of_caller(&mut tx, &ctx).await? {
            grants::keep_within(&own, None, &bounds(&row))?;
        }
        let overlap = Duration::seconds(r.overlap_seconds.unwrap_or(OVERLAP).into());
        if overlap.is_zero() {
            keys::revoke(tx.conn(), &old.id, now).await.map_err(Error::from)?;
        } else {
            old.expires_at = Some(old.expires_at.map_or(now + overlap, |at| at.min(now + overlap)));
            keys::save(tx.conn(), &old).await.map_err(Error::from)?;
        }
        let role_ids: Vec<String> = custom.into_iter().map(|c| c.id).collect();
        self.add_key(&mut tx, &ctx, &row, &secret, &role_ids, "key.rotated").await?;
        let secret = secret.expose().to_owned();
        tx.answer(pb::CreateKeyResponse { key: Some(to_pb(row, None, role_ids)), secret }).await
    }

    async fn revoke_key(
        &self,
        request: Request<pb::RevokeKeyRequest>,
    ) -> Result<Response<pb::RevokeKeyResponse>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().key_id;
        let mut tx = self.db.tenant(&ctx).await?;
        let revoked = keys::revoke(tx.conn(), id, self.clock.now()).await.map_err(Error::from)?;
        if revoked.ok_or_else(|| Error::not_found(format!("key {id}")))? {
            let target = ("key", id.as_str());
            nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "key.revoked", target, &[]).await?;
        }
        tx.commit().await?;
        Ok(Response::new(pb::RevokeKeyResponse {}))
    }
}

impl Service {
    /// A key with an id and a secret of its own.
    fn new_key(&self, key: KeyRow) -> (KeyRow, Secret) {
        let secret = key::generate(KeyKind::Api);
        let (id, prefix) = (KeyId::new(&*self.clock).to_string(), key::display_prefix(&secret));
        (KeyRow { id, prefix, ..key }, secret)
    }

    async fn add_key(
        &self,
        tx: &mut TenantTx,
        ctx: &RequestCtx,
        row: &KeyRow,
        secret: &Secret,
        role_ids: &[String],
        action: &str,
    ) -> Result<()> {
        // Two who add one at the same time count one after the other.
        org::lock(tx.conn()).await?;
        let (living, unreplaced) = keys::count(tx.conn(), row.created_at, &row.replaces).await?;
        // A full organization still rotates its keys.
        if unreplaced >= MOST || living >= 2 * MOST {
            let detail =
                format!("An organization has at most {MOST} living keys. Revoke one that is not used.");
            return Err(Error::new(Code::Conflict, detail));
        }
        keys::insert(tx.conn(), row, &key::sha256(secret.expose())).await?;
        if !role_ids.is_empty() {
            roles::set_of_key(tx.conn(), &row.id, role_ids).await?;
        }
        let details = [
            ("name", row.name.clone()),
            ("role", row.role.clone()),
            ("roles", role_ids.join(",")),
            ("scopes", row.scopes.join(",")),
            ("networks", row.networks.join(",")),
            ("replaces", row.replaces.clone()),
        ];
        let target = ("key", row.id.as_str());
        nitejar_db::audit::push(tx.conn(), ctx, &*self.clock, action, target, &details).await
    }

    /// A key that still works, locked.
    async fn living(&self, tx: &mut TenantTx, id: &str) -> Result<KeyRow> {
        let row = keys::lock(tx.conn(), id).await?.ok_or_else(|| Error::not_found(format!("key {id}")))?;
        if !row.lives_at(self.clock.now()) {
            return Err(Error::new(Code::Conflict, "It was revoked or has expired. Make a new one."));
        }
        Ok(row)
    }
}

/// What binds the caller, when it is an organization's key. Nothing else is bound.
async fn bounds_of_caller(tx: &mut TenantTx, ctx: &RequestCtx) -> Result<Option<Bounds>> {
    if ctx.actor.kind != ActorKind::ApiKey {
        return Ok(None);
    }
    let own = keys::get(tx.conn(), &ctx.actor.id).await?;
    let own = own.ok_or_else(|| Error::internal("a key of this organization that it does not have"))?;
    Ok(Some(bounds(&own)))
}

fn bounds(key: &KeyRow) -> Bounds {
    Bounds {
        networks: key.networks.clone(),
        requests_per_minute: key.requests_per_minute,
        expires_at: key.expires_at,
    }
}

/// What custom roles add.
fn added(custom: &[RoleRow]) -> Vec<String> {
    custom.iter().flat_map(|c| c.permissions.clone()).collect()
}

/// Refused unless the caller holds all that a key opens, and all that its scopes name: one that its roles no longer permit opens
/// nothing now, but may again, when a role is changed back.
fn held_all(ctx: &RequestCtx, key: &KeyRow, custom: &[RoleRow]) -> Result<()> {
    grants::hold_all(ctx, &key.scopes)?;
    let added = added(custom);
    let role = Role::parse(&key.role).ok_or_else(|| Error::internal("a key without a role"))?;
    let opens = |scope: &&String| role.allows(scope) || added.contains(scope);
    let scopes: Vec<String> = key.scopes.iter().filter(opens).cloned().collect();
    if scopes.is_empty() && !key.scopes.is_empty() {
        return Ok(()); // None would mean all.
    }
    grants::key_scopes(ctx, role, &added, &scopes)
}

fn to_pb(k: KeyRow, last_used_at: Option<DateTime<Utc>>, role_ids: Vec<String>) -> pb::Key {
    pb::Key {
        id: k.id,
        name: k.name,
        prefix: k.prefix,
        role: k.role,
        scopes: k.scopes,
        expires_at: k.expires_at.map(to_proto),
        last_used_at: last_used_at.map(to_proto),
        revoked_at: k.revoked_at.map(to_proto),
        created_at: Some(to_proto(k.created_at)),
        created_by: k.created_by,
        role_ids,
        allowed_networks: k.networks,
        requests_per_minute: k.requests_per_minute.and_then(|n| u32::try_from(n).ok()),
        replaces: k.replaces,
    }
}

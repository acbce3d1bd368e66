//! An organization's API keys.

use nitejar_common::error::{Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::id::KeyId;
use nitejar_common::key::{self, KeyKind};
use nitejar_common::page;
use nitejar_common::permission::Role;
use nitejar_common::time::to_proto;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::keys_server::Keys;
use tonic::{Request, Response, Status};

use super::users::expiry;
use crate::Service;
use crate::domain::grants;
use crate::store::keys::{self, KeyRow};

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
        grants::key_scopes(&ctx, role, &r.scopes)?;
        let now = self.clock.now();
        let secret = key::generate(KeyKind::Api);
        let row = KeyRow {
            id: KeyId::new(&*self.clock).to_string(),
            name: r.name,
            prefix: key::display_prefix(&secret),
            role: role.as_str().to_owned(),
            scopes: r.scopes,
            expires_at: expiry(r.expires_at, now)?,
            revoked_at: None,
            created_at: now,
            created_by: ctx.actor.id.clone(),
        };
        let mut tx = self.db.tenant(&ctx).await?;
        keys::insert(tx.conn(), &row, &key::sha256(secret.expose())).await.map_err(Error::from)?;
        let details =
            [("name", row.name.clone()), ("role", row.role.clone()), ("scopes", row.scopes.join(","))];
        let target = ("key", row.id.as_str());
        nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "key.created", target, &details).await?;
        let secret = secret.expose().to_owned();
        tx.answer(pb::CreateKeyResponse { key: Some(to_pb(row, None)), secret }).await
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
        tx.commit().await?;
        let (rows, next_page_token) = page::cut(rows, size, |(k, _)| k.id.clone());
        let keys = rows.into_iter().map(|(k, used)| to_pb(k, used)).collect();
        Ok(Response::new(pb::ListKeysResponse { keys, next_page_token }))
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

fn to_pb(k: KeyRow, last_used_at: Option<chrono::DateTime<chrono::Utc>>) -> pb::Key {
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
    }
}

//! People.

use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::id::{KeyId, UserId};
use nitejar_common::key::{self, KeyKind};
use nitejar_common::page;
use nitejar_common::time::{from_proto, to_proto};
use nitejar_db::errors::is_unique_violation;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::users_server::Users;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::domain::{email, networks, settings};
use crate::store::credentials::{self, PersonalKey};
use crate::store::users::{self, UserRow};

/// Living keys of a person.
const MOST: i64 = 100;

#[tonic::async_trait]
impl Users for Service {
    async fn create_user(
        &self,
        request: Request<pb::CreateUserRequest>,
    ) -> Result<Response<pb::User>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        settings::check_name(&r.name)?;
        let user = UserRow {
            id: UserId::new(&*self.clock).to_string(),
            email: email::normalized(&r.email, "/email")?,
            name: r.name,
            created_at: self.clock.now(),
        };
        let mut tx = self.db.control().await?;
        users::insert(tx.conn(), &user).await.map_err(|e| {
            if is_unique_violation(&e, "users_email_key") {
                Error::new(Code::AlreadyExists, "There is a user with this e-mail address.")
                    .violation("/email", "must be new")
            } else {
                e.into()
            }
        })?;
        self.audit_platform(tx.conn(), &ctx, "user.created", ("user", &user.id), &[]).await?;
        tx.answer(&ctx, to_pb(user)).await
    }

    async fn get_user(&self, request: Request<pb::GetUserRequest>) -> Result<Response<pb::User>, Status> {
        Ok(Response::new(to_pb(self.user(&request.get_ref().user_id).await?)))
    }

    async fn create_user_key(
        &self,
        request: Request<pb::CreateUserKeyRequest>,
    ) -> Result<Response<pb::CreateKeyResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let user = self.user(&r.user_id).await?;
        let wish = Wish { name: r.name, expires_at: r.expires_at, networks: Vec::new(), a_minute: None };
        self.issue_key(&ctx, user.id, wish).await
    }

    async fn get_me(&self, request: Request<pb::GetMeRequest>) -> Result<Response<pb::User>, Status> {
        let ctx = ctx(&request)?;
        Ok(Response::new(to_pb(self.user(ctx.require_user()?).await?)))
    }

    async fn create_my_key(
        &self,
        request: Request<pb::CreateMyKeyRequest>,
    ) -> Result<Response<pb::CreateKeyResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let user = ctx.require_user()?.to_owned();
        if !self.is_session_of(&r.session, &user).await? {
            return Err(Error::new(
                Code::PermissionDenied,
                "Sign in by a browser, or with nitejar login, to make a key: a key can't make another.",
            )
            .into());
        }
        let networks = networks::normalized(&r.allowed_networks)?;
        let a_minute = r.requests_per_minute.and_then(|n| i32::try_from(n).ok());
        self.issue_key(&ctx, user, Wish { name: r.name, expires_at: r.expires_at, networks, a_minute }).await
    }

    async fn list_my_keys(
        &self,
        request: Request<pb::ListMyKeysRequest>,
    ) -> Result<Response<pb::ListKeysResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let size = page::size(r.page_size, 50, 100);
        let after = page::after(&r.page_token)?;
        let user = ctx.require_user()?;
        let now = self.clock.now();
        let rows = credentials::personal(&mut *self.db.control_once().await?, user, &after, size + 1, now)
            .await
            .map_err(Error::from)?;
        let (rows, next_page_token) = page::cut(rows, size, |k| k.key_id.clone());
        let keys = rows.into_iter().map(key_to_pb).collect();
        Ok(Response::new(pb::ListKeysResponse { keys, next_page_token }))
    }

    async fn revoke_my_key(
        &self,
        request: Request<pb::RevokeMyKeyRequest>,
    ) -> Result<Response<pb::RevokeKeyResponse>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().key_id;
        let mut tx = self.db.control().await?;
        let revoked = credentials::revoke_personal(tx.conn(), ctx.require_user()?, id, self.clock.now())
            .await
            .map_err(Error::from)?;
        if revoked.ok_or_else(|| Error::not_found(format!("key {id}")))? {
            self.audit_platform(tx.conn(), &ctx, "user_key.revoked", ("key", id), &[]).await?;
        }
        tx.answer(&ctx, pb::RevokeKeyResponse {}).await
    }

    async fn export_me(
        &self,
        request: Request<pb::ExportMeRequest>,
    ) -> Result<Response<pb::ExportMeResponse>, Status> {
        Ok(Response::new(self.export_account(&ctx(&request)?).await?))
    }

    async fn delete_me(
        &self,
        request: Request<pb::DeleteMeRequest>,
    ) -> Result<Response<pb::DeleteMeResponse>, Status> {
        let ctx = ctx(&request)?;
        self.delete_account(&ctx, &request.get_ref().email).await?;
        Ok(Response::new(pb::DeleteMeResponse {}))
    }
}

/// A personal key to issue.
struct Wish {
    name: String,
    expires_at: Option<prost_types::Timestamp>,
    networks: Vec<String>,
    a_minute: Option<i32>,
}

impl Service {
    async fn issue_key(
        &self,
        ctx: &RequestCtx,
        user_id: String,
        wish: Wish,
    ) -> Result<Response<pb::CreateKeyResponse>, Status> {
        let now = self.clock.now();
        let secret = key::generate(KeyKind::Api);
        let row = PersonalKey {
            key_id: KeyId::new(&*self.clock).to_string(),
            prefix: key::display_prefix(&secret),
            name: wish.name,
            user_id,
            created_by: ctx.actor.id.clone(),
            expires_at: expiry(wish.expires_at, now)?,
            last_used_at: None,
            created_at: now,
            networks: wish.networks,
            requests_per_minute: wish.a_minute,
        };
        let mut tx = self.db.control().await?;
        if !users::lock(tx.conn(), &row.user_id).await.map_err(Error::from)? {
            return Err(Error::not_found(format!("user {}", row.user_id)).into());
        }
        if credentials::count_personal(tx.conn(), &row.user_id, now).await.map_err(Error::from)? >= MOST {
            let detail =
                format!("A person has at most {MOST} living keys. Revoke one that is not used any more.");
            return Err(Error::new(Code::Conflict, detail).into());
        }
        let hash = key::sha256(secret.expose());
        credentials::insert_personal(tx.conn(), &hash, &row).await.map_err(Error::from)?;
        let details = [("user", row.user_id.clone()), ("name", row.name.clone())];
        self.audit_platform(tx.conn(), ctx, "user_key.created", ("key", &row.key_id), &details).await?;
        let secret = secret.expose().to_owned();
        tx.answer(ctx, pb::CreateKeyResponse { key: Some(key_to_pb(row)), secret }).await
    }

    pub(crate) async fn user(&self, id: &str) -> Result<UserRow> {
        let user = users::get(&mut *self.db.control_once().await?, id).await?;
        user.ok_or_else(|| Error::not_found(format!("user {id}")))
    }
}

/// A key's expiry; it must lie ahead.
pub(crate) fn expiry(
    at: Option<prost_types::Timestamp>,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<Option<chrono::DateTime<chrono::Utc>>> {
    let Some(at) = at else { return Ok(None) };
    match from_proto(&at).filter(|at| *at > now) {
        Some(at) => Ok(Some(at)),
        None => Err(Error::invalid("/expires_at", "must lie in the future")),
    }
}

pub(crate) fn key_to_pb(k: PersonalKey) -> pb::Key {
    pb::Key {
        id: k.key_id,
        name: k.name,
        prefix: k.prefix,
        expires_at: k.expires_at.map(to_proto),
        last_used_at: k.last_used_at.map(to_proto),
        created_at: Some(to_proto(k.created_at)),
        created_by: k.created_by,
        allowed_networks: k.networks,
        requests_per_minute: k.requests_per_minute.and_then(|n| u32::try_from(n).ok()),
        ..pb::Key::default()
    }
}

pub(crate) fn to_pb(user: UserRow) -> pb::User {
    pb::User { id: user.id, email: user.email, name: user.name, created_at: Some(to_proto(user.created_at)) }
}

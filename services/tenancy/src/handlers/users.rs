//! People.

use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::id::{KeyId, UserId};
use nitejar_common::key::{self, KeyKind};
use nitejar_common::time::{from_proto, to_proto};
use nitejar_db::errors::is_unique_violation;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::users_server::Users;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::domain::{email, settings};
use crate::store::credentials;
use crate::store::users::{self, UserRow};

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
        let details = [("email", user.email.clone())];
        self.audit_platform(tx.conn(), &ctx, "user.created", ("user", &user.id), &details).await?;
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
        let now = self.clock.now();
        let expires_at = expiry(r.expires_at, now)?;
        let user = self.user(&r.user_id).await?;
        let secret = key::generate(KeyKind::Api);
        let id = KeyId::new(&*self.clock).to_string();
        let mut tx = self.db.control().await?;
        let hash = key::sha256(secret.expose());
        credentials::insert_personal(tx.conn(), &hash, &id, &r.name, &user.id, expires_at)
            .await
            .map_err(Error::from)?;
        let details = [("user", user.id.clone()), ("name", r.name.clone())];
        self.audit_platform(tx.conn(), &ctx, "user_key.created", ("key", &id), &details).await?;
        let key = pb::Key {
            id,
            name: r.name,
            prefix: key::display_prefix(&secret),
            expires_at: expires_at.map(to_proto),
            created_at: Some(to_proto(now)),
            created_by: ctx.actor.id.clone(),
            ..pb::Key::default()
        };
        let secret = secret.expose().to_owned();
        tx.answer(&ctx, pb::CreateKeyResponse { key: Some(key), secret }).await
    }

    async fn get_me(&self, request: Request<pb::GetMeRequest>) -> Result<Response<pb::User>, Status> {
        let ctx = ctx(&request)?;
        Ok(Response::new(to_pb(self.user(ctx.require_user()?).await?)))
    }
}

impl Service {
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

fn to_pb(user: UserRow) -> pb::User {
    pb::User { id: user.id, email: user.email, name: user.name, created_at: Some(to_proto(user.created_at)) }
}

//! Answers to requests with an `Idempotency-Key`: kept with the change, given again for 24 hours.
//!
//! | Step | Killed right after it |
//! |---|---|
//! | [`Db::idempotent`] claims the key: a lock that ends with this process's connection | nothing happened; the next one claims it |
//! | it looks for a kept answer | the same |
//! | the handler changes things and ends with [`TenantTx::answer`] or [`ControlTx::answer`]: both commit, or none | the answer is there and is given again |
//! | the key is released | the same |
//!
//! A request that failed left nothing, so its key may be used again.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt as _;
use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::idempotency::{Idempotency, KEPT, REPLAYED};
use sqlx::PgConnection;
use tonic::service::Routes;
use tonic::{Response, Status};

use crate::{ControlTx, Db, TenantTx, errors, pool};

const NONCE: usize = 12;

/// A lock that takes longer is as good as none: the server, or the way to it, is gone.
const SILENT: std::time::Duration = std::time::Duration::from_secs(5);

/// Keys whose requests are under way.
#[derive(Default)]
pub(crate) struct Claims {
    /// In this process.
    here: Mutex<HashSet<[u8; 32]>>,
    /// Holds their locks, so that other replicas see them and a crash ends them.
    keeper: tokio::sync::Mutex<Option<PgConnection>>,
}

/// A claimed key; dropping it releases it.
struct Claim {
    db: Db,
    id: [u8; 32],
    released: bool,
}

impl TenantTx {
    /// Commits, and keeps the answer when the request has an `Idempotency-Key`.
    pub async fn answer<M: prost::Message>(mut self, message: M) -> Result<Response<M>, Status> {
        if let Some(idempotency) = self.idempotency.take() {
            let now = self.db.clock().now();
            keep(self.conn(), &idempotency, &message, now).await?;
        }
        self.commit().await?;
        Ok(Response::new(message))
    }
}

impl ControlTx {
    /// Commits, and keeps the answer when the context's request has an `Idempotency-Key`.
    pub async fn answer<M: prost::Message>(
        mut self,
        ctx: &RequestCtx,
        message: M,
    ) -> Result<Response<M>, Status> {
        if let Some(idempotency) = &ctx.idempotency {
            let now = self.db.clock().now();
            keep(self.conn(), idempotency, &message, now).await?;
        }
        self.commit().await?;
        Ok(Response::new(message))
    }
}

async fn keep(
    conn: &mut PgConnection,
    idempotency: &Idempotency,
    message: &impl prost::Message,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<()> {
    let kept: Option<bool> = sqlx::query_scalar("SELECT control.answer_put($1, $2, $3, $4, $5)")
        .bind(idempotency.id.as_slice())
        .bind(idempotency.request.as_slice())
        .bind(seal(idempotency, &message.encode_to_vec())?)
        .bind(now)
        .bind(now - KEPT)
        .fetch_one(conn)
        .await
        .map_err(errors::from_sqlx)?;
    // Only when the lock was lost with its connection while the request was under way.
    if kept == Some(true) { Ok(()) } else { Err(in_use()) }
}

fn seal(idempotency: &Idempotency, answer: &[u8]) -> Result<Vec<u8>> {
    let nonce: [u8; NONCE] = nitejar_common::rng::bytes();
    let payload = Payload { msg: answer, aad: &idempotency.request };
    let sealed = Aes256Gcm::new((&*idempotency.seal).into()).encrypt(&Nonce::from(nonce), payload);
    let sealed = sealed.map_err(|_| Error::internal("an answer can't be sealed"))?;
    Ok([nonce.as_slice(), &sealed].concat())
}

fn open(idempotency: &Idempotency, sealed: &[u8]) -> Result<Vec<u8>> {
    let fail = || Error::internal("a kept answer does not open");
    let (nonce, message) = sealed.split_at_checked(NONCE).ok_or_else(fail)?;
    let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| fail())?;
    let payload = Payload { msg: message, aad: &idempotency.request };
    Aes256Gcm::new((&*idempotency.seal).into()).decrypt(&Nonce::from(nonce), payload).map_err(|_| fail())
}

fn in_use() -> Error {
    Error::new(
        Code::IdempotencyKeyInUse,
        "The first request with this Idempotency-Key is still under way. Repeat it in a moment to get its answer.",
    )
    .retry_after(std::time::Duration::from_secs(1))
}

impl Db {
    /// Serves these routes so that a request with an `Idempotency-Key` happens once.
    pub fn idempotent(&self, routes: Routes) -> Routes {
        let db = self.clone();
        let layer = from_fn(move |request: Request, next: Next| {
            let db = db.clone();
            async move {
                let found = request.extensions().get::<RequestCtx>().and_then(|c| c.idempotency.clone());
                match found {
                    None => next.run(request).await,
                    Some(idempotency) => db.once(idempotency, request, next).await,
                }
            }
        });
        Routes::from(routes.into_axum_router().layer(layer))
    }

    async fn once(&self, idempotency: Idempotency, request: Request, next: Next) -> http::Response<Body> {
        // In a task of its own: a caller that goes away in between must not leave the lock behind.
        let (db, id) = (self.clone(), idempotency.id);
        let claim = tokio::spawn(async move { db.claim_key(id).await }).await;
        let claim = match claim.map_err(Error::from).and_then(|claimed| claimed) {
            Ok(claim) => claim,
            Err(error) => return Status::from(error).into_http(),
        };
        let answer = match self.kept(&idempotency).await {
            Ok(Some(answer)) => grpc_answer(&answer),
            Ok(None) => next.run(request).await,
            Err(error) => Status::from(error).into_http(),
        };
        claim.release().await;
        answer
    }

    /// The answer that is kept; an error when another request has the key.
    async fn kept(&self, idempotency: &Idempotency) -> Result<Option<Vec<u8>>> {
        let mut found: Option<(Vec<u8>, Vec<u8>)> = None;
        // It was kept with the change, wherever the organization was then.
        for db in self.parts() {
            found = sqlx::query_as("SELECT request, answer FROM answers WHERE id = $1 AND created_at > $2")
                .bind(idempotency.id.as_slice())
                .bind(self.clock().now() - KEPT)
                .fetch_optional(&mut *db.control_once().await?)
                .await
                .map_err(errors::from_sqlx)?;
            if found.is_some() {
                break;
            }
        }
        match found {
            None => Ok(None),
            Some((request, answer)) if request == idempotency.request => {
                Ok(Some(open(idempotency, &answer)?))
            }
            Some(_) => Err(Error::new(
                Code::IdempotencyKeyReused,
                "This Idempotency-Key was used for another request. Use a new key for each thing you want done.",
            )),
        }
    }

    async fn claim_key(&self, id: [u8; 32]) -> Result<Claim> {
        let claims = &self.0.claims;
        if !claims.here.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            return Err(in_use());
        }
        let mut claim = Claim { db: self.clone(), id, released: true };
        match claims.locked(self, "SELECT pg_try_advisory_lock($1)", &id).await {
            Ok(true) => {
                claim.released = false;
                Ok(claim)
            }
            taken => {
                claim.forget();
                taken.and(Err(in_use()))
            }
        }
    }

    /// Deletes what is older than it is kept.
    pub(crate) async fn forget_answers(&self) -> Result<()> {
        sqlx::query("DELETE FROM answers WHERE created_at < $1")
            .bind(self.clock().now() - KEPT)
            .execute(&mut *self.control_once().await?)
            .await
            .map_err(errors::from_sqlx)?;
        Ok(())
    }
}

impl Claims {
    /// Asks on the keeper's connection. Never to be dropped half-way: who calls it runs in a task of its own.
    async fn locked(&self, db: &Db, sql: &'static str, id: &[u8; 32]) -> Result<bool> {
        let number = i64::from_be_bytes(id[..8].try_into().unwrap_or_default());
        let silent = |_| Error::unavailable().because("the database is silent");
        let mut keeper = tokio::time::timeout(SILENT, self.keeper.lock()).await.map_err(silent)?;
        let taken = keeper.take();
        let asked = async {
            let mut conn = match taken {
                Some(conn) => conn,
                None => {
                    let own = pool::small(db.0.control_options.clone(), 1);
                    own.acquire().await.map_err(errors::from_sqlx)?.detach()
                }
            };
            let answer = sqlx::query_scalar(sql).bind(number).fetch_one(&mut conn).await;
            Ok::<_, Error>((answer.map_err(errors::from_sqlx)?, conn))
        };
        // A connection that failed, or is silent, is dropped, and all its locks with it; the answers' primary key still holds.
        let (answer, conn) = tokio::time::timeout(SILENT, asked).await.map_err(silent)??;
        *keeper = Some(conn);
        Ok(answer)
    }
}

impl Claim {
    fn forget(&self) {
        self.db.0.claims.here.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }

    async fn unlock(db: &Db, id: &[u8; 32]) {
        if let Err(error) = db.0.claims.locked(db, "SELECT pg_advisory_unlock($1)", id).await {
            tracing::warn!(error = %error.log_text(), "an idempotency key is released with its connection");
        }
        db.0.claims.here.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Waits until it is free again, so that the next one with this key finds it so. In a task of its own: a caller that
    /// goes away in between must not leave it half released.
    async fn release(mut self) {
        self.released = true;
        let (db, id) = (self.db.clone(), self.id);
        let _ = tokio::spawn(async move { Self::unlock(&db, &id).await }).await;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        let (db, id) = (self.db.clone(), self.id);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { Self::unlock(&db, &id).await })),
            Err(_) => self.forget(),
        }
    }
}

/// An encoded message as a gRPC answer.
fn grpc_answer(message: &[u8]) -> http::Response<Body> {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = http_body_util::Full::<Bytes>::new(frame.freeze());
    let body = body.with_trailers(async move { Some(Ok(trailers)) });
    let mut response = http::Response::new(Body::new(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("1"));
    response
}

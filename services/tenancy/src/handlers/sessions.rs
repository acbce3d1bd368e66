//! Signing in and out.

use chrono::{DateTime, Duration, Utc};
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::grpc::server::ctx;
use nitejar_common::id::{SessionId, UserId};
use nitejar_common::key::{self, KeyKind};
use nitejar_common::network::network;
use nitejar_common::secret::Secret;
use nitejar_common::time::to_proto;
use nitejar_common::{RequestCtx, ctx};
use nitejar_db::ControlTx;
use nitejar_proto::tenancy::v1 as pb;
use nitejar_proto::tenancy::v1::sessions_server::Sessions;
use subtle::ConstantTimeEq as _;
use tonic::{Request, Response, Status};

use crate::Service;
use crate::domain::email;
use crate::mail::{self, Mail};
use crate::store::sessions::{self, Found, Named, SessionRow, SignIn};
use crate::store::users::{self, UserRow};

/// How long a link works, and over how long its uses are counted.
const LINK: Duration = Duration::minutes(15);
/// Links for one address of mail in that time, asked for from one network: one other network can't use them up.
const FOR_ONE: i64 = 5;
/// The same from wherever. Who has many networks can use these up.
const FOR_ALL: i64 = 30;
/// Links from one network in that time.
const FROM_ONE: i64 = 30;
/// Living sessions of a person: as many as are listed. The one that was used longest ago ends for one more.
const MOST: i64 = 100;
/// How long a rotated secret is good after the new one was used: requests that were under way.
const GRACE: Duration = Duration::minutes(1);
/// Whose account is older has surely signed in before.
const OLD_ACCOUNT: Duration = Duration::days(30);
/// After so long without a use of a new secret its answer was lost: longer than any request takes.
const LOST: Duration = Duration::minutes(5);

#[tonic::async_trait]
impl Sessions for Service {
    async fn start_sign_in(
        &self,
        request: Request<pb::StartSignInRequest>,
    ) -> Result<Response<pb::StartSignInResponse>, Status> {
        let ctx = ctx(&request)?;
        let r = request.into_inner();
        let email = email::normalized(&r.email, "/email")?;
        let now = self.clock.now();
        // A browser that asks again stays the same one, so that the first of two links works, too.
        let browser = match key::parse(&r.browser) {
            Some(KeyKind::Browser) => Secret::new(r.browser),
            _ => key::generate(KeyKind::Browser),
        };
        let token = key::generate(KeyKind::SignIn);
        let mut tx = self.db.control().await?;
        // What the gateway saw; a text that is no address stands for itself.
        let network = r.address.parse().map_or_else(|_| r.address.clone(), |a| network(a).to_string());
        sessions::lock_asking(tx.conn(), &email, &network).await.map_err(Error::from)?;
        let asked =
            sessions::asked_since(tx.conn(), &email, &network, now - LINK).await.map_err(Error::from)?;
        if asked.both >= FOR_ONE || asked.email >= FOR_ALL || asked.network >= FROM_ONE {
            let detail = "Too many links were asked for. Use one of those that were sent, or wait.";
            return Err(Error::new(Code::RateLimited, detail)
                .retry_after(LINK.to_std().unwrap_or_default())
                .into());
        }
        let sign_in = SignIn {
            token: key::sha256(token.expose()),
            browser: key::sha256(browser.expose()),
            email: &email,
            network: &network,
        };
        sessions::ask(tx.conn(), &sign_in, now, now + LINK).await.map_err(Error::from)?;
        let link = format!("{}/sign-in/finish#token={}", self.public_url, token.expose());
        mail::push(tx.conn(), &ctx, self, &Mail::sign_in(&email, &link)).await?;
        // A log keeps no address of anybody's: who is gone must be gone. Who knows one can look for it.
        let pseudonym = email::pseudonym(&email);
        let details = [("address", r.address)];
        self.audit_platform(tx.conn(), &ctx, "sign_in.started", ("email", &pseudonym), &details).await?;
        tx.commit().await?;
        let browser = browser.expose().to_owned();
        Ok(Response::new(pb::StartSignInResponse { browser, expires_at: Some(to_proto(now + LINK)) }))
    }

    async fn finish_sign_in(
        &self,
        request: Request<pb::FinishSignInRequest>,
    ) -> Result<Response<pb::FinishSignInResponse>, Status> {
        let mut ctx = ctx(&request)?;
        let r = request.into_inner();
        let now = self.clock.now();
        let mut tx = self.db.control().await?;
        let (token, browser) = (key::sha256(&r.token), key::sha256(&r.browser));
        let email = sessions::use_link(tx.conn(), &token, &browser, now).await.map_err(Error::from)?;
        let email = email.ok_or_else(|| {
            Error::new(
                Code::SignInLinkUnusable,
                "This link was used, is too old, or was asked for in another browser. Ask for a new one here.",
            )
        })?;
        let user = self.user_of(&mut tx, &mut ctx, &email).await?;
        let secret = key::generate(KeyKind::Session);
        let session = SessionRow {
            id: SessionId::new(&*self.clock).to_string(),
            sha256: key::sha256(secret.expose()).to_vec(),
            previous_sha256: None,
            user_agent: r.user_agent,
            address: r.address,
            created_at: now,
            last_seen_at: now,
            expires_at: now + self.session.longest,
        };
        let places = sessions::places(tx.conn(), &user.id).await.map_err(Error::from)?;
        let old = user.created_at < session.created_at - OLD_ACCOUNT;
        if is_new_device(&places, old, &session) {
            let mail = Mail::new_device(&user.email, &session.user_agent, &session.address, now);
            mail::push(tx.conn(), &ctx, self, &mail).await?;
        }
        sessions::insert(tx.conn(), &user.id, &session).await.map_err(Error::from)?;
        for id in sessions::end_unused(tx.conn(), &user.id, MOST, now, self.session.idle)
            .await
            .map_err(Error::from)?
        {
            self.audit_platform(tx.conn(), &ctx, "session.revoked", ("session", &id), &[]).await?;
        }
        let details = [("address", session.address), ("user_agent", session.user_agent)];
        self.audit_platform(tx.conn(), &ctx, "session.created", ("session", &session.id), &details).await?;
        tx.commit().await?;
        self.join_at_sign_in(&ctx, &user).await;
        let session = secret.expose().to_owned();
        Ok(Response::new(pb::FinishSignInResponse { session, user: Some(super::users::to_pb(user)) }))
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let ctx = ctx(&request)?;
        let current = key::sha256(&request.get_ref().session);
        let mut conn = self.db.control_once().await?;
        let rows = sessions::of_user(&mut conn, ctx.require_user()?, self.clock.now(), self.session.idle)
            .await
            .map_err(Error::from)?;
        let is = |hash: &[u8]| bool::from(hash.ct_eq(&current));
        let sessions = rows.into_iter().map(|s| pb::Session {
            current: is(&s.sha256) || s.previous_sha256.as_deref().is_some_and(is),
            id: s.id,
            user_agent: s.user_agent,
            address: s.address,
            created_at: Some(to_proto(s.created_at)),
            last_seen_at: Some(to_proto(s.last_seen_at)),
            expires_at: Some(to_proto(s.expires_at)),
        });
        Ok(Response::new(pb::ListSessionsResponse { sessions: sessions.collect() }))
    }

    async fn revoke_session(
        &self,
        request: Request<pb::RevokeSessionRequest>,
    ) -> Result<Response<pb::RevokeSessionResponse>, Status> {
        let ctx = ctx(&request)?;
        let id = &request.get_ref().session_id;
        let (tx, ended) = self.revoke(&ctx, Some(id), None).await?;
        tx.commit().await?;
        if ended == 0 {
            let mut conn = self.db.control_once().await?;
            if !sessions::exists(&mut conn, ctx.require_user()?, id).await.map_err(Error::from)? {
                return Err(Error::not_found(format!("session {id}")).into());
            }
        }
        Ok(Response::new(pb::RevokeSessionResponse {}))
    }

    async fn sign_out(
        &self,
        request: Request<pb::SignOutRequest>,
    ) -> Result<Response<pb::SignOutResponse>, Status> {
        let ctx = ctx(&request)?;
        let secret = &request.get_ref().session;
        if key::parse(secret) != Some(KeyKind::Session) {
            let detail = "This request has no session that could end; an API key is revoked instead.";
            return Err(Error::new(Code::Conflict, detail).into());
        }
        let (tx, _) = self.revoke(&ctx, None, Some(&key::sha256(secret))).await?;
        tx.answer(&ctx, pb::SignOutResponse::default()).await
    }

    async fn sign_out_everywhere(
        &self,
        request: Request<pb::SignOutEverywhereRequest>,
    ) -> Result<Response<pb::SignOutEverywhereResponse>, Status> {
        let ctx = ctx(&request)?;
        let (tx, ended) = self.revoke(&ctx, None, None).await?;
        tx.answer(&ctx, pb::SignOutEverywhereResponse { session: String::new(), ended }).await
    }
}

/// Whether somebody who has signed in before now does so with another browser, or from another network. Of an `old` account
/// without any place all have been forgotten.
fn is_new_device(places: &[(String, String)], old: bool, session: &SessionRow) -> bool {
    let of = |address: &str| address.parse().map_or_else(|_| address.to_owned(), |a| network(a).to_string());
    let here = of(&session.address);
    let known = |(agent, address): &(String, String)| *agent == session.user_agent && of(address) == here;
    (old || !places.is_empty()) && !places.iter().any(known)
}

/// Two have the secret: an old one is shown, although the new one has long been used. One that was replaced because nobody
/// seemed to have it, and comes after all, is as telling.
fn stolen(found: &Found, now: DateTime<Utc>) -> bool {
    let late = !found.newest && found.confirmed_at.is_some_and(|at| now > at + GRACE);
    late || found.abandoned
}

impl Service {
    /// The person with that address; a new one is registered.
    async fn user_of(&self, tx: &mut ControlTx, ctx: &mut RequestCtx, email: &str) -> Result<UserRow> {
        let wish = UserRow {
            id: UserId::new(&*self.clock).to_string(),
            email: email.to_owned(),
            name: email.split('@').next().unwrap_or(email).chars().take(100).collect(),
            created_at: self.clock.now(),
        };
        let user = users::find_or_insert(tx.conn(), &wish).await?;
        ctx.actor.kind = nitejar_common::ActorKind::User;
        ctx.actor.id.clone_from(&user.id);
        if user.id == wish.id {
            self.audit_platform(tx.conn(), ctx, "user.created", ("user", &user.id), &[]).await?;
        }
        Ok(user)
    }

    /// Ends sessions of the caller's and tells of each, in a transaction that is still to be committed; answers how many.
    async fn revoke(
        &self,
        ctx: &RequestCtx,
        id: Option<&str>,
        sha256: Option<&[u8]>,
    ) -> Result<(ControlTx, u32)> {
        let mut tx = self.db.control().await?;
        let ended = sessions::revoke(tx.conn(), ctx.require_user()?, id, sha256, self.clock.now()).await?;
        for id in &ended {
            self.audit_platform(tx.conn(), ctx, "session.revoked", ("session", id), &[]).await?;
        }
        Ok((tx, u32::try_from(ended.len()).unwrap_or(u32::MAX)))
    }

    /// Whether it is the secret of one of a person's living sessions, signed in to a moment ago.
    pub(crate) async fn is_session_of(&self, secret: &str, user: &str) -> Result<bool> {
        if key::parse(secret) != Some(KeyKind::Session) {
            return Ok(false);
        }
        let (hash, now) = (key::sha256(secret), self.clock.now());
        let mut conn = self.db.control_once().await?;
        let found = sessions::resolve(&mut conn, Named::Secret(&hash), "", now, self.session.idle).await?;
        drop(conn);
        // A key's own freshness must not make the next fresh key for ever: somebody signed in for this one.
        let fresh = |session: &Found| ctx::SignIn::of_browser(session.created_at, now) == ctx::SignIn::Fresh;
        let Some(found) = found.filter(|session| session.user_id == user && fresh(session)) else {
            return Ok(false);
        };
        let stolen = stolen(&found, now);
        if stolen {
            self.end_stolen(&found).await?;
        }
        Ok(!stolen)
    }

    /// Who is behind a session. A secret that was rotated away long ago ends it: two have it.
    pub(crate) async fn resolve_session(
        &self,
        named: Named<'_>,
        org: &str,
    ) -> Result<pb::ResolveCredentialResponse> {
        let now = self.clock.now();
        let unknown = || Error::new(Code::InvalidCredential, "This session is not valid.");
        let mut conn = self.db.control_once().await?;
        let found = sessions::resolve(&mut conn, named, org, now, self.session.idle).await?;
        drop(conn);
        let found = found.ok_or_else(unknown)?;
        if stolen(&found, now) {
            self.end_stolen(&found).await?;
            return Err(unknown());
        }
        let shown = match named {
            Named::Secret(sha256) => sha256,
            Named::Id(_) => &[],
        };
        let newest_shown = found.newest && !shown.is_empty();
        let confirms = newest_shown && found.rotated && found.confirmed_at.is_none();
        // An open stream is no use: nobody may be there.
        if confirms || (!shown.is_empty() && now - found.last_seen_at > Duration::minutes(1)) {
            let mut tx = self.db.control().await?;
            sessions::touch(tx.conn(), &found.id, now, shown).await?;
            tx.commit().await?;
        }
        let lost = !found.newest && found.confirmed_at.is_none() && found.rotated_at < now - LOST;
        let old = newest_shown && found.rotated_at < now - self.session.rotate;
        Ok(pb::ResolveCredentialResponse {
            actor_kind: "user".into(),
            actor_id: found.user_id,
            actor_name: found.user_name,
            role: found.member_role.filter(|_| found.org_state.is_some()).unwrap_or_default(),
            grants: found.member_grants.filter(|_| found.org_state.is_some()).unwrap_or_default(),
            signed_in_at: Some(to_proto(found.created_at)),
            org_state: found.org_state.unwrap_or_default(),
            key_id: found.id,
            expires_at: Some(to_proto(found.expires_at.min(now + self.session.idle))),
            rotate: lost || old,
            lasting: hex::encode(&found.lasting),
            ..Default::default()
        })
    }

    async fn end_stolen(&self, found: &Found) -> Result<()> {
        tracing::warn!(session = found.id, "a rotated session secret was used again; the session ends");
        let ctx = RequestCtx::service("tenancy", &*self.clock);
        let mut tx = self.db.control().await?;
        sessions::revoke(tx.conn(), &found.user_id, Some(&found.id), None, self.clock.now()).await?;
        let details = [("user", found.user_id.clone())];
        self.audit_platform(tx.conn(), &ctx, "session.reused", ("session", &found.id), &details).await?;
        tx.commit().await
    }

    /// A new secret for a session; empty when another request was faster.
    pub(crate) async fn rotate_session(&self, presented: &[u8]) -> Result<String> {
        let (now, new) = (self.clock.now(), key::generate(KeyKind::Session));
        let (old, lost) = (now - self.session.rotate, now - LOST);
        let mut tx = self.db.control().await?;
        let hash = key::sha256(new.expose());
        let rotated = sessions::rotate(tx.conn(), presented, &hash, now, old, lost).await?;
        tx.commit().await?;
        Ok(if rotated { new.expose().to_owned() } else { String::new() })
    }
}

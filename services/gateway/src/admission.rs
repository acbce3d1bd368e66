//! Who asks, where, whether they may, and whether they do not ask too often.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, header};
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::id::{OrgId, is_id};
use nitejar_common::key::KeyKind;
use nitejar_common::{ActorKind, RequestCtx};
use nitejar_proto::policy::Scope;

use crate::authn::{self, Asker, Caller, Question, Session};
use crate::limits::Left;
use crate::service::Gateway;
use crate::transcode::routes::Route;
use crate::{authz, cookies, limits, slugs};

/// What a request shows of itself.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) route: &'a Route,
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    /// Where it came from.
    pub(crate) address: IpAddr,
    /// The organization in the path.
    pub(crate) org: Option<&'a str>,
    pub(crate) request_id: &'a str,
}

/// Where an admitted request goes.
#[expect(clippy::large_enum_variant, reason = "nearly always the large one, on every request's path")]
pub(crate) enum Way {
    /// On, in this context.
    In(RequestCtx),
    /// It named this organization by a slug: to its id.
    To(OrgId),
}

/// What an answer's headers tell, whatever the answer.
#[derive(Default)]
pub(crate) struct Told {
    /// Of the rate limit.
    left: Option<Left>,
    /// A session's new secret.
    secret: Option<HeaderValue>,
    /// The session, if the caller has one.
    pub(crate) session: Option<Session>,
    /// The support grant, if that is why the caller may.
    pub(crate) grant: Option<Arc<str>>,
}

impl Told {
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        if let Some(left) = self.left {
            limits::tell(headers, left);
        }
        // One that ends the session, or begins another, counts more.
        if let (Some(secret), false) = (self.secret, headers.contains_key(header::SET_COOKIE)) {
            headers.append(header::SET_COOKIE, secret);
        }
    }
}

/// Lets a new request in. `told` is filled as soon as something is known.
pub(crate) async fn admit(gateway: &Gateway, asked: Asked<'_>, told: &mut Told) -> Result<Way> {
    let presented = authn::presented(asked.headers)?;
    let by_cookie = presented.is_some_and(|(kind, _)| kind == KeyKind::Session);
    if by_cookie || !asked.route.cookies.is_empty() {
        cookies::check_site(asked.method, asked.headers)?;
    }
    let (way, caller) = who_where_may(gateway, asked, presented, Asker::New(asked.address)).await?;
    let tenant = match &way {
        Way::In(ctx) => ctx.tenant.as_ref(),
        Way::To(org) => Some(org),
    };
    // Where nobody needs to be known, a cookie that nobody looked at names nobody.
    let known = presented.filter(|_| caller.actor.kind != ActorKind::Anonymous);
    if let Some((_, credential)) = known {
        let same = lasting(&caller, credential);
        gateway.limits.take_known(same, caller.a_minute, tenant, &mut told.left)?;
        if caller.rotate {
            told.secret = Box::pin(authn::rotate(gateway, asked.request_id, credential)).await;
        }
    }
    told.session.clone_from(&caller.session);
    told.grant = caller.grant.clone().filter(|_| asked.route.policy.scope == Scope::Tenant);
    Ok(way)
}

/// Looks again, while a request is under way that `session` let in, if it was one.
pub(crate) async fn still_may(
    gateway: &Gateway,
    asked: Asked<'_>,
    session: Option<&Session>,
) -> Result<RequestCtx> {
    let presented = authn::presented(asked.headers)?;
    match who_where_may(gateway, asked, presented, Asker::LetIn(session)).await?.0 {
        Way::In(ctx) => Ok(ctx),
        Way::To(_) => Err(Error::internal("a request was let in by a slug")),
    }
}

/// Credential, organization, permission, and who it is; what is refused to somebody known is audited. A new request's
/// address is charged for a credential that is not good, or not there, and for none.
async fn who_where_may(
    gateway: &Gateway,
    asked: Asked<'_>,
    presented: Option<(KeyKind, &str)>,
    asker: Asker<'_>,
) -> Result<(Way, Arc<Caller>)> {
    let policy = asked.route.policy;
    // What is no id names no organization; nobody needs to be asked about it.
    let org = asked.org.filter(|org| is_id(org, "org"));
    let slug = asked.org.filter(|text| policy.scope == Scope::Tenant && slugs::looks_like(text));
    // What anybody may, a browser may whose session has ended.
    let looked_at =
        presented.filter(|(kind, _)| !(policy.scope == Scope::Public && *kind == KeyKind::Session));
    let caller = match looked_at {
        Some((kind, token)) => {
            let org = org.unwrap_or_default();
            let slug = slug.unwrap_or_default();
            let question = Question { request_id: asked.request_id, kind, token, org, slug, asker };
            authn::resolve(gateway, question).await?
        }
        None if policy.scope == Scope::Public => {
            if let Asker::New(address) = asker {
                gateway.limits.take_address(address)?;
            }
            authn::anonymous()
        }
        None => {
            return Err(Error::new(Code::Unauthenticated, "Send a key as Authorization: Bearer …."));
        }
    };
    if let Err(error) = from_there(&caller, asked.address) {
        gateway.denials.note(&caller, &policy.path, org, &error, asked.request_id);
        // The address is charged and not the key: whoever took it away must not use up what its owner has.
        if let Asker::New(address) = asker {
            gateway.limits.take_address(address)?;
        }
        return Err(error);
    }
    if let Some(org) = &caller.leads_to {
        return Ok((Way::To(org.clone()), caller));
    }
    match authz::authorize(policy, &caller, asked.org, asked.request_id, gateway.clock.now()) {
        Ok(ctx) => Ok((Way::In(ctx), caller)),
        Err(error) => {
            gateway.denials.note(&caller, &policy.path, org, &error, asked.request_id);
            // Who asks for what is not theirs is counted as well.
            if let (Asker::New(_), Some((_, credential))) = (asker, looked_at) {
                let same = lasting(&caller, credential);
                gateway.limits.take_known(same, caller.a_minute, None, &mut None)?;
            }
            Err(error)
        }
    }
}

/// What stays the same of a credential: a session's secret is replaced now and then.
fn lasting<'a>(caller: &'a Caller, credential: &'a str) -> &'a str {
    caller.session.as_ref().map_or(credential, |session| &session.lasting)
}

/// A key that is bound to networks is good there only.
fn from_there(caller: &Caller, address: IpAddr) -> Result<()> {
    let address = address.to_canonical();
    if caller.networks.is_empty() || caller.networks.iter().any(|net| net.contains(&address)) {
        return Ok(());
    }
    Err(Error::new(Code::AddressNotAllowed, format!("This key may not be used from {address}.")))
}

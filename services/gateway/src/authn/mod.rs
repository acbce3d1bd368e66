//! Who is behind a credential.

pub(crate) mod cache;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderValue, header};
use ipnet::IpNet;
use nitejar_common::RequestCtx;
use nitejar_common::ctx::{Actor, ActorKind, OrgState, SignIn};
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::id::OrgId;
use nitejar_common::key::{self, KeyKind};
use nitejar_common::permission::Role;
use nitejar_common::time::from_proto;
use nitejar_proto::sprites::v1::ResolveRunnerRequest;
use nitejar_proto::sprites::v1::sprites_internal_client::SpritesInternalClient;
use nitejar_proto::tenancy::v1::tenancy_internal_client::TenancyInternalClient;
use nitejar_proto::tenancy::v1::{ResolveCredentialRequest, RotateSessionRequest};

use crate::service::Gateway;
use crate::{call, cookies};

/// Everything waits for this answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// Who asks, before we know whether they may.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// What and who.
    pub(crate) actor: Actor,
    /// The role in the organization asked for; none: none there.
    pub(crate) role: Option<Role>,
    /// How far the life of the organization asked for goes on.
    pub(crate) org_state: OrgState,
    /// What custom roles add to the role.
    pub(crate) grants: Vec<String>,
    /// Narrows both.
    pub(crate) scopes: Option<Vec<String>>,
    /// When they showed that they are a person. How fresh that is, is to be asked with each request.
    pub(crate) shown: Shown,
    /// Where it may be used from; empty: anywhere.
    pub(crate) networks: Vec<IpNet>,
    /// Its own limit.
    pub(crate) a_minute: Option<u64>,
    /// Where an organization's key, or a runner, is at home.
    pub(crate) home: Option<String>,
    /// A session's secret is to be replaced. Kept answers do not say it again.
    pub(crate) rotate: bool,
    /// The session, if it is one.
    pub(crate) session: Option<Session>,
    /// The support grant that gives an operator the role.
    pub(crate) grant: Option<Arc<str>>,
    /// Where the slug leads that was asked for, if they have a role there.
    pub(crate) leads_to: Option<OrgId>,
}

/// When somebody showed that they are a person.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shown {
    /// Never: an organization's key, a token of ours.
    Never,
    /// A browser that signed in then.
    Browser(DateTime<Utc>),
    /// A person's key that was made then.
    Key(DateTime<Utc>),
}

impl Shown {
    /// What that is worth now.
    pub(crate) fn at(self, now: DateTime<Utc>) -> SignIn {
        match self {
            Self::Never => SignIn::Key,
            Self::Browser(at) => SignIn::of_browser(at, now),
            Self::Key(at) => SignIn::of_key(at, now),
        }
    }
}

/// Of a session, what stays while its secret is replaced.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// `session_…`
    pub(crate) id: Arc<str>,
    /// Names its requests that may come again; nobody else can have it.
    pub(crate) lasting: Arc<str>,
}

/// Nobody known.
pub(crate) fn anonymous() -> Arc<Caller> {
    Arc::new(Caller {
        actor: Actor { kind: ActorKind::Anonymous, id: String::new(), name: String::new() },
        role: None,
        org_state: OrgState::Active,
        grants: Vec::new(),
        shown: Shown::Never,
        networks: Vec::new(),
        a_minute: None,
        scopes: None,
        home: None,
        rotate: false,
        session: None,
        grant: None,
        leads_to: None,
    })
}

/// One answer for every credential that is not good: what is wrong with it is nobody's business.
fn invalid() -> Error {
    Error::new(
        Code::InvalidCredential,
        "This credential is not valid: it is malformed, unknown, expired or revoked.",
    )
}

/// The presented key; none when there is no credential at all.
pub(crate) fn presented(headers: &HeaderMap) -> Result<Option<(KeyKind, &str)>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        // A cookie that is no session's any more must not keep anybody from signing in.
        let session = cookies::get(headers, cookies::SESSION);
        let session = session.filter(|token| key::parse(token) == Some(KeyKind::Session));
        return Ok(session.map(|token| (KeyKind::Session, token)));
    };
    if values.next().is_some() {
        return Err(invalid());
    }
    let text = value.to_str().map_err(|_| invalid())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(invalid)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(invalid());
    }
    let kind = key::parse(token).ok_or_else(invalid)?;
    if !matches!(kind, KeyKind::Api | KeyKind::Operator | KeyKind::Runner) {
        return Err(invalid());
    }
    Ok(Some((kind, token)))
}

/// A credential, and where it is to be used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) kind: KeyKind,
    pub(crate) token: &'a str,
    /// Empty: in none.
    pub(crate) org: &'a str,
    /// What stands there instead: a slug. Empty: none.
    pub(crate) slug: &'a str,
    pub(crate) asker: Asker<'a>,
}

/// Who is to answer for a credential.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asker<'a> {
    /// A new request from there, if the credential is not good.
    New(IpAddr),
    /// A request that was let in before, by this session if it was one: its secret may have been replaced since.
    LetIn(Option<&'a Session>),
}

/// Who is behind a key, and what they are in the organization asked for: as kept, or as tenancy says.
pub(crate) async fn resolve(gateway: &Gateway, question: Question<'_>) -> Result<Arc<Caller>> {
    let hash = match question.asker {
        // No key has such a text.
        Asker::LetIn(Some(session)) => key::sha256(&session.id),
        _ => key::sha256(question.token),
    };
    if question.kind != KeyKind::Runner
        && question.slug.is_empty()
        && let Some(caller) = gateway.credentials.get(&hash, question.org)
    {
        return Ok(caller);
    }
    let Asker::New(address) = question.asker else { return Box::pin(ask(gateway, question, hash)).await };
    // Who shares an address with somebody who guesses is asked about all the same, though few at a time.
    let narrow = gateway.limits.narrow("credential", address)?;
    // Boxed: most requests never come here, and need not carry its state.
    let found = Box::pin(ask(gateway, question, hash)).await;
    drop(narrow);
    if found.as_ref().is_err_and(is_invalid) {
        gateway.limits.take_address(address)?;
    }
    found
}

fn is_invalid(error: &Error) -> bool {
    error.code() == Code::InvalidCredential
}

async fn ask(gateway: &Gateway, question: Question<'_>, hash: [u8; 32]) -> Result<Arc<Caller>> {
    let Question { request_id, kind, org, slug, .. } = question;
    let me = RequestCtx::service("gateway", &*gateway.clock).with_request_id(request_id);
    let (services, kept) = (&gateway.services, &gateway.credentials);
    if kind == KeyKind::Runner {
        let message = ResolveRunnerRequest { token_sha256: hash.to_vec().into() };
        let found = call::repeated(|| {
            let request = services.sprites.request_within(&me, message.clone(), DEADLINE);
            let mut sprites = SpritesInternalClient::new(services.sprites.channel());
            async move { sprites.resolve_runner(request?).await }
        });
        let found = found.await.map_err(same_for_all)?;
        return Ok(Arc::new(Caller {
            actor: Actor { kind: ActorKind::Runner, id: found.sprite_id, name: String::new() },
            role: None,
            org_state: OrgState::Active,
            grants: Vec::new(),
            shown: Shown::Never,
            networks: Vec::new(),
            a_minute: None,
            scopes: None,
            home: Some(found.org_id),
            rotate: false,
            session: None,
            grant: None,
            leads_to: None,
        }));
    }
    let asked = kept.ask();
    let session_id = match question.asker {
        Asker::LetIn(Some(session)) => session.id.to_string(),
        _ => String::new(),
    };
    let message = ResolveCredentialRequest {
        key_sha256: if session_id.is_empty() { hash.to_vec() } else { Vec::new() },
        org_id: org.to_owned(),
        session: kind == KeyKind::Session,
        session_id,
        slug: slug.to_owned(),
    };
    let found = call::repeated(|| {
        let request = services.tenancy.request_within(&me, message.clone(), DEADLINE);
        let mut tenancy = TenancyInternalClient::new(services.tenancy.channel());
        async move { tenancy.resolve_credential(request?).await }
    });
    let found = found.await.map_err(same_for_all)?;
    let actor_kind = match found.actor_kind.as_str() {
        "user" => ActorKind::User,
        "api_key" => ActorKind::ApiKey,
        "operator" => ActorKind::Operator,
        other => return Err(Error::internal(format!("tenancy knows an actor of the kind {other}"))),
    };
    // An operator's key has a prefix of its own; one without it is no operator's, whatever is configured.
    if (actor_kind == ActorKind::Operator) != (kind == KeyKind::Operator) {
        return Err(invalid());
    }
    if kind == KeyKind::Session && found.lasting.is_empty() {
        return Err(Error::internal("tenancy named no lasting value of a session"));
    }
    // A tenancy of the version before says nothing, and names a role in active organizations only.
    let org_state = match found.org_state.as_str() {
        "" => Some(OrgState::Active),
        name => OrgState::parse(name),
    };
    let signed_in = found.signed_in_at.as_ref().and_then(from_proto).map(Shown::Browser);
    let made = found.made_at.as_ref().and_then(from_proto).map(Shown::Key);
    let networks: Result<Vec<IpNet>, _> = found.networks.iter().map(|n| n.parse()).collect();
    let networks = networks.map_err(|_| Error::internal("tenancy names a network that is none"))?;
    let caller = Arc::new(Caller {
        actor: Actor { kind: actor_kind, id: found.actor_id, name: found.actor_name },
        // In any other state there is no such organization for anybody.
        role: org_state.and(Role::parse(&found.role)),
        org_state: org_state.unwrap_or_default(),
        grants: found.grants,
        shown: signed_in.or(made.filter(|_| actor_kind == ActorKind::User)).unwrap_or(Shown::Never),
        networks,
        a_minute: Some(u64::from(found.requests_per_minute)).filter(|n| *n > 0),
        scopes: found.scoped.then_some(found.scopes),
        home: Some(found.home_org_id).filter(|home| !home.is_empty()),
        rotate: false,
        session: (kind == KeyKind::Session).then(|| Session {
            id: found.key_id.as_str().into(),
            lasting: gateway.lasting.of(&found.lasting).into(),
        }),
        grant: Some(found.support_grant_id).filter(|id| !id.is_empty()).map(Arc::from),
        leads_to: found.slug_org_id.parse().ok(),
    });
    // An operator's role is a grant's, or none: without its name nothing could be recorded.
    if actor_kind == ActorKind::Operator && caller.role.is_some() != caller.grant.is_some() {
        return Err(Error::internal("tenancy names a role of an operator's without its grant"));
    }
    let expires_at = found.expires_at.as_ref().and_then(from_proto);
    // An answer about a slug is not kept: a rename tells nobody.
    if slug.is_empty() {
        kept.keep(asked, (hash, org.to_owned()), &found.key_id, &caller, expires_at);
    }
    Ok(if found.rotate { Arc::new(Caller { rotate: true, ..Caller::clone(&caller) }) } else { caller })
}

/// A session's new secret as a cookie; none when it can't be had now: the next request asks again.
pub(crate) async fn rotate(gateway: &Gateway, request_id: &str, token: &str) -> Option<HeaderValue> {
    let me = RequestCtx::service("gateway", &*gateway.clock).with_request_id(request_id);
    let tenancy = &gateway.services.tenancy;
    let message = RotateSessionRequest { sha256: key::sha256(token).to_vec() };
    let rotated = async {
        let request = tenancy.request_within(&me, message, DEADLINE)?;
        Ok::<_, Error>(
            TenancyInternalClient::new(tenancy.channel()).rotate_session(request).await?.into_inner(),
        )
    };
    let rotated = rotated.await.inspect_err(|error| {
        tracing::warn!(error = %error.log_text(), "a session's secret could not be replaced");
    });
    let session = rotated.ok()?.session;
    cookies::set(cookies::SESSION, &session, cookies::SESSION_SECONDS).ok().filter(|_| !session.is_empty())
}

fn same_for_all(error: Error) -> Error {
    if is_invalid(&error) { invalid() } else { error }
}

#[cfg(test)]
mod tests {
    use chrono::Duration;
    use nitejar_common::clock::{Clock as _, SystemClock};

    use super::*;

    /// What is kept of a credential is a time: it gets old while it is kept.
    #[test]
    fn what_is_fresh_is_asked_with_each_request() {
        let then = SystemClock.now();
        for (shown, later) in [(Shown::Browser(then), SignIn::Old), (Shown::Key(then), SignIn::Key)] {
            assert_eq!(shown.at(then + Duration::minutes(14)), SignIn::Fresh);
            assert_eq!(shown.at(then + Duration::minutes(15)), later);
        }
        assert_eq!(Shown::Never.at(then), SignIn::Key);
    }
}

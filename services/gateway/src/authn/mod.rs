//! Who is behind a credential.

pub(crate) mod cache;

use http::{HeaderMap, header};
use nitejar_common::RequestCtx;
use nitejar_common::clock::Clock;
use nitejar_common::ctx::{Actor, ActorKind};
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::key::{self, KeyKind};
use nitejar_common::permission::Role;
use nitejar_common::time::from_proto;
use nitejar_proto::sprites::v1::ResolveRunnerRequest;
use nitejar_proto::sprites::v1::sprites_internal_client::SpritesInternalClient;
use nitejar_proto::tenancy::v1::ResolveCredentialRequest;
use nitejar_proto::tenancy::v1::tenancy_internal_client::TenancyInternalClient;

use crate::upstreams::Services;
use cache::Credentials;

/// Who asks, before we know whether they may.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// What and who.
    pub(crate) actor: Actor,
    /// The role in the organization asked for; none: none there.
    pub(crate) role: Option<Role>,
    /// Narrows the role.
    pub(crate) scopes: Option<Vec<String>>,
    /// Where an organization's key, or a runner, is at home.
    pub(crate) home: Option<String>,
}

/// Nobody known.
pub(crate) fn anonymous() -> Caller {
    Caller {
        actor: Actor { kind: ActorKind::Anonymous, id: String::new(), name: String::new() },
        role: None,
        scopes: None,
        home: None,
    }
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
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid());
    }
    let text = value.to_str().map_err(|_| invalid())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(invalid)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(invalid());
    }
    let kind = key::parse(token).filter(|k| *k != KeyKind::Invitation).ok_or_else(invalid)?;
    Ok(Some((kind, token)))
}

/// Who is behind a key, and what they are in the organization asked for: as kept, or as tenancy says.
pub(crate) async fn resolve(
    services: &Services,
    kept: &Credentials,
    clock: &dyn Clock,
    request_id: &str,
    kind: KeyKind,
    token: &str,
    org: &str,
) -> Result<Caller> {
    let me = RequestCtx::service("gateway", clock).with_request_id(request_id);
    let hash = key::sha256(token);
    if kind == KeyKind::Runner {
        let message = ResolveRunnerRequest { token_sha256: hash.to_vec().into() };
        let request = services.sprites.request(&me, message)?;
        let found = SpritesInternalClient::new(services.sprites.channel()).resolve_runner(request).await;
        let found = found.map_err(Error::from).map_err(same_for_all)?.into_inner();
        return Ok(Caller {
            actor: Actor { kind: ActorKind::Runner, id: found.sprite_id, name: String::new() },
            role: None,
            scopes: None,
            home: Some(found.org_id),
        });
    }
    if let Some(caller) = kept.get(&hash, org) {
        return Ok(caller);
    }
    let asked = kept.ask();
    let message = ResolveCredentialRequest { key_sha256: hash.to_vec(), org_id: org.to_owned() };
    let request = services.tenancy.request(&me, message)?;
    let found = TenancyInternalClient::new(services.tenancy.channel()).resolve_credential(request).await;
    let found = found.map_err(Error::from).map_err(same_for_all)?.into_inner();
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
    let caller = Caller {
        actor: Actor { kind: actor_kind, id: found.actor_id, name: found.actor_name },
        role: Role::parse(&found.role),
        scopes: found.scoped.then_some(found.scopes),
        home: Some(found.home_org_id).filter(|home| !home.is_empty()),
    };
    let expires_at = found.expires_at.as_ref().and_then(from_proto);
    kept.keep(asked, (hash, org.to_owned()), &found.key_id, &caller, expires_at);
    Ok(caller)
}

fn same_for_all(error: Error) -> Error {
    if error.code() == Code::InvalidCredential { invalid() } else { error }
}

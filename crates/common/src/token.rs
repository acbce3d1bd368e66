//! The internal token: a [`RequestCtx`] signed with Ed25519 by who minted it, for one service, for a minute.
//!
//! Only the gateway may speak for people, keys, operators and runners. Any other service can only speak as itself, so
//! that a service that was taken over can't pretend to be somebody.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use http::HeaderValue;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::clock::SharedClock;
use crate::ctx::{ActorKind, RequestCtx};
use crate::secret::Secret;

/// Long enough for clock differences and a queue, short enough that a leaked token is worth little.
const LIFETIME: i64 = 60;
/// How far clocks may be apart.
const SKEW: i64 = 10;
/// Longer than any honest token.
const MAX_LEN: usize = 8192;
/// A token is used again for so long: signing one for each request would be a fifth of the gateway's work.
const REUSED: i64 = 20;
/// Tokens remembered, by who mints and by who verifies.
const REMEMBERED: usize = 10_000;

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    iat: i64,
    exp: i64,
    ctx: RequestCtx,
}

/// Why a token is refused; for the log, not for the caller.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// Not of the form or not readable.
    #[error("malformed")]
    Malformed,
    /// Signed by nobody we know.
    #[error("unknown issuer")]
    UnknownIssuer,
    /// Changed, or signed with another key.
    #[error("wrong signature")]
    WrongSignature,
    /// Meant for another service.
    #[error("for another service")]
    WrongAudience,
    /// Too old, or from the future.
    #[error("outside of its time")]
    OutOfTime,
    /// The issuer may not speak for that actor.
    #[error("the issuer may not speak for this actor")]
    NotTheirs,
}

/// Mints tokens in a service's name.
pub struct Signer {
    issuer: String,
    key: SigningKey,
    clock: SharedClock,
    /// Audience and context → token as a header, and when it was minted.
    minted: Cache<String, (HeaderValue, i64)>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.issuer)
    }
}

/// A signing key's text (base64 of 32 bytes) is not one.
#[derive(Debug, thiserror::Error)]
#[error("must be the base64 of 32 bytes")]
pub struct NotAKey;

fn decode_key(text: &str) -> Result<[u8; 32], NotAKey> {
    STANDARD.decode(text.trim()).ok().and_then(|b| b.try_into().ok()).ok_or(NotAKey)
}

/// A new signing key and its public half, both as configuration texts.
pub fn generate_key() -> (Secret, String) {
    let key = SigningKey::from_bytes(&crate::rng::bytes());
    (Secret::new(STANDARD.encode(key.to_bytes())), STANDARD.encode(key.verifying_key().to_bytes()))
}

impl Signer {
    /// From the configuration text of the key.
    pub fn new(issuer: &str, key: &Secret, clock: SharedClock) -> Result<Arc<Self>, NotAKey> {
        let key = SigningKey::from_bytes(&decode_key(key.expose())?);
        Ok(Arc::new(Self { issuer: issuer.to_owned(), key, clock, minted: Cache::new(REMEMBERED) }))
    }

    /// Who signs.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// `Bearer …`: a token of `ctx` for the service `audience`. The request's id is not in it: it grants nothing, and without
    /// it the same caller's next request can use the same token.
    pub fn mint(&self, ctx: &RequestCtx, audience: &str) -> HeaderValue {
        let now = self.clock.now().timestamp();
        let same = serde_json::to_string(&(audience, ctx)).expect("a context is plain data");
        if let Some((token, at)) = self.minted.get(&same)
            && (at..at + REUSED).contains(&now)
        {
            return token;
        }
        let token = format!("Bearer {}", self.sign(ctx.clone(), audience, now));
        let token = HeaderValue::try_from(token).expect("base64 and dots");
        self.minted.insert(same, (token.clone(), now));
        token
    }

    fn sign(&self, ctx: RequestCtx, audience: &str, iat: i64) -> String {
        let (iss, aud) = (self.issuer.clone(), audience.to_owned());
        let claims = Claims { iss, aud, iat, exp: iat + LIFETIME, ctx };
        let json = serde_json::to_vec(&claims).expect("claims are plain data");
        let body = URL_SAFE_NO_PAD.encode(json);
        let signature = self.key.sign(body.as_bytes());
        format!("{body}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }
}

/// Checks tokens that arrive at one service.
pub struct Verifier {
    audience: String,
    keys: BTreeMap<String, Vec<VerifyingKey>>,
    clock: SharedClock,
    /// Tokens that were found good. Whether it is still their time is asked each time.
    verified: Cache<Box<str>, Arc<Claims>>,
}

impl Verifier {
    /// `trusted`: each issuer's public key; two with a comma between them while it changes.
    pub fn new(
        audience: &str,
        trusted: &BTreeMap<String, String>,
        clock: SharedClock,
    ) -> Result<Arc<Self>, NotAKey> {
        let mut keys = BTreeMap::new();
        for (issuer, texts) in trusted {
            let key = |text: &str| VerifyingKey::from_bytes(&decode_key(text)?).map_err(|_| NotAKey);
            keys.insert(issuer.clone(), texts.split(',').map(key).collect::<Result<Vec<_>, _>>()?);
        }
        let verified = Cache::new(REMEMBERED);
        Ok(Arc::new(Self { audience: audience.to_owned(), keys, clock, verified }))
    }

    /// The context of a token, or why it is refused.
    pub fn verify(&self, token: &str) -> Result<RequestCtx, Refusal> {
        if token.len() > MAX_LEN {
            return Err(Refusal::Malformed);
        }
        if let Some(claims) = self.verified.get(token) {
            self.in_time(&claims)?;
            return Ok(claims.ctx.clone());
        }
        let claims = self.examine(token)?;
        self.in_time(&claims)?;
        let ctx = claims.ctx.clone();
        self.verified.insert(token.into(), Arc::new(claims));
        Ok(ctx)
    }

    /// Everything about a token but its time.
    fn examine(&self, token: &str) -> Result<Claims, Refusal> {
        let (body, signature) = token.split_once('.').ok_or(Refusal::Malformed)?;
        let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| Refusal::Malformed)?;
        let claims: Claims = serde_json::from_slice(&json).map_err(|_| Refusal::Malformed)?;
        let keys = self.keys.get(&claims.iss).ok_or(Refusal::UnknownIssuer)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refusal::Malformed)?;
        let signature = Signature::from_slice(&signature).map_err(|_| Refusal::Malformed)?;
        if !keys.iter().any(|key| key.verify_strict(body.as_bytes(), &signature).is_ok()) {
            return Err(Refusal::WrongSignature);
        }
        if claims.aud != self.audience {
            return Err(Refusal::WrongAudience);
        }
        let actor = &claims.ctx.actor;
        let as_itself = actor.kind == ActorKind::Service && actor.id == claims.iss;
        if !as_itself && (claims.iss != "gateway" || actor.kind == ActorKind::Service) {
            return Err(Refusal::NotTheirs);
        }
        Ok(claims)
    }

    fn in_time(&self, claims: &Claims) -> Result<(), Refusal> {
        let now = self.clock.now().timestamp();
        let lives = claims.iat <= now + SKEW && claims.exp >= now - SKEW;
        // A token that claims to live longer than we let one live is from nobody of ours.
        if lives && claims.exp - claims.iat <= LIFETIME { Ok(()) } else { Err(Refusal::OutOfTime) }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Duration;

    use super::*;
    use crate::clock::{Clock as _, ManualClock, SystemClock};
    use crate::ctx::{Actor, OrgState, SignIn};
    use crate::id::OrgId;
    use crate::permission::Role;

    #[test]
    fn a_key_is_changed_without_a_gap() {
        let (clock, ctx) =
            (ManualClock::new(SystemClock.now()), RequestCtx::service("billing", &SystemClock));
        let ((old_key, old), (new_key, new)) = (generate_key(), generate_key());
        let signer = |key: &Secret| Signer::new("billing", key, clock.clone()).unwrap();
        let trusting = |keys: &str| {
            let trusted = BTreeMap::from([("billing".to_owned(), keys.to_owned())]);
            Verifier::new("sprites", &trusted, clock.clone()).unwrap()
        };
        let (by_old, by_new) =
            (mint(&signer(&old_key), &ctx, "sprites"), mint(&signer(&new_key), &ctx, "sprites"));
        // First everybody trusts both, then the new one signs, then the old one is trusted no more.
        for (trusted, good) in
            [(old.clone(), [true, false]), (format!("{old}, {new}"), [true, true]), (new, [false, true])]
        {
            let verifier = trusting(&trusted);
            assert_eq!([&by_old, &by_new].map(|token| verifier.verify(token).is_ok()), good);
        }
        assert!(Verifier::new("x", &BTreeMap::from([("a".into(), format!("{old},"))]), clock).is_err());
    }

    struct Setup {
        clock: Arc<ManualClock>,
        gateway: Arc<Signer>,
        billing: Arc<Signer>,
        sprites: Arc<Verifier>,
    }

    /// As the other side sees it.
    fn mint(signer: &Signer, ctx: &RequestCtx, audience: &str) -> String {
        signer.mint(ctx, audience).to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned()
    }

    fn setup() -> Setup {
        let clock = ManualClock::new(SystemClock.now());
        let (gateway_key, gateway_public) = generate_key();
        let (billing_key, billing_public) = generate_key();
        let trusted =
            BTreeMap::from([("gateway".into(), gateway_public), ("billing".into(), billing_public)]);
        Setup {
            gateway: Signer::new("gateway", &gateway_key, clock.clone()).unwrap(),
            billing: Signer::new("billing", &billing_key, clock.clone()).unwrap(),
            sprites: Verifier::new("sprites", &trusted, clock.clone()).unwrap(),
            clock,
        }
    }

    fn person() -> RequestCtx {
        RequestCtx {
            tenant: Some(OrgId::new(&SystemClock)),
            org_state: OrgState::Active,
            actor: Actor { kind: ActorKind::User, id: "user_1".into(), name: "Ada".into() },
            role: Some(Role::Admin),
            grants: vec!["audit.read".into()],
            scopes: Some(vec!["jobs.read".into()]),
            sign_in: SignIn::Fresh,
            request_id: "req_1".into(),
            idempotency: None,
        }
    }

    #[test]
    fn a_token_carries_the_context_for_its_service_and_its_time() {
        let s = setup();
        let token = mint(&s.gateway, &person(), "sprites");
        let ctx = s.sprites.verify(&token).unwrap();
        assert!(ctx.may("jobs.read") && !ctx.may("jobs.run"), "scopes narrow the role");
        assert_eq!(s.sprites.verify(&mint(&s.gateway, &person(), "audit")), Err(Refusal::WrongAudience));
        s.clock.advance(Duration::seconds(LIFETIME + SKEW + 1));
        assert_eq!(s.sprites.verify(&token), Err(Refusal::OutOfTime));
    }

    #[test]
    fn a_token_is_used_again_for_the_same_context_and_audience_only() {
        let s = setup();
        let token = mint(&s.gateway, &person(), "sprites");
        let later = RequestCtx { request_id: "req_2".into(), ..person() };
        // Each call of `person` is another organization.
        let same = RequestCtx { tenant: s.sprites.verify(&token).unwrap().tenant, ..later };
        assert_eq!(mint(&s.gateway, &same, "sprites"), token);
        assert_ne!(mint(&s.gateway, &same, "audit"), token);
        for other in [
            RequestCtx { role: Some(Role::Viewer), ..same.clone() },
            RequestCtx { scopes: None, ..same.clone() },
            RequestCtx { org_state: OrgState::Suspended, ..same.clone() },
            RequestCtx { grants: Vec::new(), ..same.clone() },
            RequestCtx { sign_in: SignIn::Old, ..same.clone() },
            RequestCtx { tenant: None, ..same.clone() },
            RequestCtx { actor: Actor { id: "user_2".into(), ..same.actor.clone() }, ..same.clone() },
        ] {
            assert_ne!(mint(&s.gateway, &other, "sprites"), token, "{other:?}");
        }
        s.clock.advance(Duration::seconds(REUSED));
        let newer = mint(&s.gateway, &same, "sprites");
        assert_ne!(newer, token);
        assert_eq!(s.sprites.verify(&newer).unwrap(), RequestCtx { request_id: String::new(), ..same });
    }

    #[test]
    fn a_changed_or_foreign_token_is_refused() {
        let s = setup();
        let token = mint(&s.gateway, &person(), "sprites");
        let (body, signature) = token.split_once('.').unwrap();
        let mut claims: serde_json::Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap();
        claims["ctx"]["role"] = "owner".into();
        let forged = format!("{}.{signature}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        assert_eq!(s.sprites.verify(&forged), Err(Refusal::WrongSignature));
        let (stranger, _) = generate_key();
        let stranger = Signer::new("gateway", &stranger, s.clock.clone()).unwrap();
        assert_eq!(s.sprites.verify(&mint(&stranger, &person(), "sprites")), Err(Refusal::WrongSignature));
        for junk in ["", ".", "a.b", &"x".repeat(9000)] {
            assert!(s.sprites.verify(junk).is_err());
        }
    }

    #[test]
    fn only_the_gateway_speaks_for_people_and_nobody_for_another_service() {
        let s = setup();
        assert_eq!(s.sprites.verify(&mint(&s.billing, &person(), "sprites")), Err(Refusal::NotTheirs));
        let itself = RequestCtx::service("billing", &SystemClock);
        let heard = s.sprites.verify(&mint(&s.billing, &itself, "sprites"));
        assert_eq!(heard, Ok(RequestCtx { request_id: String::new(), ..itself.clone() }));
        assert_eq!(s.sprites.verify(&mint(&s.gateway, &itself, "sprites")), Err(Refusal::NotTheirs));
    }
}

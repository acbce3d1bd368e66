//! Keys of ours that stand in public: GitHub reports them (its secret scanning partner program), we revoke them and tell
//! whose they are.
//!
//! A report is signed with one of GitHub's own keys, which it publishes. They are asked for when a report names one that
//! is not known here, at most once a minute: whoever invents names makes us ask no oftener.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::key::{self, KeyKind};
use nitejar_common::text::hides;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::DecodePublicKey as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::Service;
use crate::mail::{self, Mail};
use crate::store::credentials::{self, Ending};
use crate::store::keys;

/// Tokens of one report.
const MOST: usize = 1_000;
/// Characters of a text of a report that are shown to anybody.
const MOST_SHOWN: usize = 2_000;

/// GitHub's public keys, as far as they are known here.
#[derive(Default)]
pub(crate) struct GithubKeys(Mutex<Known>);

#[derive(Default)]
struct Known {
    keys: HashMap<String, VerifyingKey>,
    asked_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct Published {
    public_keys: Vec<PublicKey>,
}

#[derive(Deserialize)]
struct PublicKey {
    key_identifier: String,
    key: String,
}

/// A token that was found.
#[derive(Deserialize)]
struct Found {
    token: String,
    #[serde(rename = "type", default, deserialize_with = "to_show")]
    kind: String,
    #[serde(default, deserialize_with = "to_show")]
    url: String,
    #[serde(default, deserialize_with = "to_show")]
    source: String,
}

/// A text that may be missing, or null: that of one token keeps no other from being revoked. It goes into a mail and the log, so
/// it is bounded, and on one line.
fn to_show<'de, D: Deserializer<'de>>(json: D) -> Result<String, D::Error> {
    let text = Option::<String>::deserialize(json)?.unwrap_or_default();
    Ok(text.chars().filter(|c| !hides(*c)).take(MOST_SHOWN).collect())
}

/// What became of it.
#[derive(Serialize)]
struct Label {
    token_hash: String,
    token_type: String,
    label: &'static str,
}

impl GithubKeys {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: &str) -> Option<VerifyingKey> {
        self.known().keys.get(id).copied()
    }

    /// Whether they may be asked for now; then it counts as asked.
    fn may_ask(&self, now: DateTime<Utc>) -> bool {
        let mut known = self.known();
        let may = known.asked_at.is_none_or(|at| now - at > chrono::Duration::minutes(1));
        if may {
            known.asked_at = Some(now);
        }
        may
    }

    fn learn(&self, published: Published) {
        let keys = published.public_keys.into_iter().filter_map(|k| {
            let key = VerifyingKey::from_public_key_pem(&k.key).ok()?;
            Some((k.key_identifier, key))
        });
        self.known().keys = keys.collect();
    }
}

impl Service {
    /// Takes a report; answers JSON as GitHub wants it.
    pub(crate) async fn take_report(&self, key_id: &str, signature: &str, body: &[u8]) -> Result<String> {
        let not_signed = || Error::new(Code::InvalidSignature, "The signature does not fit the body.");
        let key = self.github_key(key_id).await?.ok_or_else(not_signed)?;
        let signature = STANDARD.decode(signature).ok().and_then(|der| Signature::from_der(&der).ok());
        key.verify(body, &signature.ok_or_else(not_signed)?).map_err(|_| not_signed())?;
        let found: Vec<Found> = serde_json::from_slice(body)
            .map_err(|_| Error::new(Code::MalformedBody, "A report is a JSON array of tokens."))?;
        if found.len() > MOST {
            return Err(Error::invalid("/", format!("must be at most {MOST} tokens")));
        }
        let mut labels = Vec::with_capacity(found.len());
        for token in found {
            let hash = key::sha256(&token.token);
            let real = self.revoke_leaked(&token, &hash).await?;
            let label = if real { "true_positive" } else { "false_positive" };
            labels.push(Label { token_hash: STANDARD.encode(hash), token_type: token.kind, label });
        }
        Ok(serde_json::to_string(&labels)?)
    }

    async fn github_key(&self, id: &str) -> Result<Option<VerifyingKey>> {
        if let Some(key) = self.github_keys.get(id) {
            return Ok(Some(key));
        }
        if self.secret_scanning_url.is_empty() || !self.github_keys.may_ask(self.clock.now()) {
            return Ok(None);
        }
        let url = format!("{}/meta/public_keys/secret_scanning", self.secret_scanning_url);
        let unavailable = |error: reqwest::Error| Error::unavailable().because(error);
        let answer = self.http.get(url).header("accept", "application/vnd.github+json").send().await;
        let answer = answer.and_then(reqwest::Response::error_for_status).map_err(unavailable)?;
        self.github_keys.learn(answer.json().await.map_err(unavailable)?);
        Ok(self.github_keys.get(id))
    }

    /// Ends a key that stands in public; whether it is, or was, one of ours. Reported again it changes nothing.
    async fn revoke_leaked(&self, found: &Found, hash: &[u8; 32]) -> Result<bool> {
        match key::parse(&found.token) {
            Some(KeyKind::Api) => {}
            Some(KeyKind::Operator) if self.operators.contains_key(hash) => {
                // It stands in the configuration, which no request changes.
                tracing::error!(url = found.url, "AN OPERATOR'S KEY STANDS IN PUBLIC: replace it now");
                return Ok(true);
            }
            _ => return Ok(false),
        }
        let Some(key) = credentials::by_hash(&mut *self.db.control_once().await?, hash).await? else {
            return Ok(false);
        };
        let now = self.clock.now();
        let ctx = RequestCtx::service("tenancy", &*self.clock);
        let details = [("url", found.url.clone()), ("source", found.source.clone())];
        let target = ("key", key.key_id.as_str());
        match (&key.user_id, &key.org_id) {
            (Some(user), _) => {
                let to = self.user(user).await.map(|user| user.email);
                let mut tx = self.db.control().await?;
                if credentials::revoke_personal(tx.conn(), user, &key.key_id, now).await? == Some(true) {
                    self.audit_platform(tx.conn(), &ctx, "user_key.leaked", target, &details).await?;
                    if let Ok(to) = to {
                        mail::push(tx.conn(), &ctx, self, &leaked(&to, &key, &found.url)).await?;
                    }
                }
                tx.commit().await?;
            }
            (None, Some(org)) => {
                let ctx = ctx.for_tenant(org.parse()?);
                let owners = self.owners(&ctx).await?;
                let mut tx = self.db.tenant(&ctx).await?;
                if keys::revoke(tx.conn(), &key.key_id, now).await? == Some(true) {
                    nitejar_db::audit::push(tx.conn(), &ctx, &*self.clock, "key.leaked", target, &details)
                        .await?;
                    for owner in owners {
                        mail::push(tx.conn(), &ctx, self, &leaked(&owner.email, &key, &found.url)).await?;
                    }
                }
                tx.commit().await?;
            }
            (None, None) => {}
        }
        Ok(true)
    }
}

fn leaked(to: &str, key: &Ending, url: &str) -> Mail {
    Mail::key_leaked(to, &key.name, &key.key_id, url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_in_one_token_keeps_no_other_from_being_found() {
        let report = r#"[
            {"token": "njk_1", "type": "nitejar_api_key", "url": null, "source": null},
            {"token": "njk_2", "type": null},
            {"token": "njk_3"},
            {"token": "njk_4", "type": "nitejar_api_key", "url": "https://x.example/\r\nBcc: a@b.example\u2028\u202e!", "source": "content"}
        ]"#;
        let found: Vec<Found> = serde_json::from_str(report).unwrap();
        let urls: Vec<&str> = found.iter().map(|f| f.url.as_str()).collect();
        assert_eq!(urls, ["", "", "", "https://x.example/Bcc: a@b.example!"]);
        assert_eq!((found[1].kind.as_str(), found[3].source.as_str()), ("", "content"));
        let long = serde_json::json!({ "token": "njk_5", "url": "ä".repeat(5_000) });
        let long: Found = serde_json::from_value(long).unwrap();
        assert_eq!(long.url.chars().count(), MOST_SHOWN);
        let nothing = serde_json::from_str::<Found>(r#"{"url": "x"}"#);
        assert!(nothing.is_err(), "without a token there is nothing to look for");
    }
}

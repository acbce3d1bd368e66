//! Our GitHub App: who we are there, and what we ask it.

pub(crate) mod event;
mod redelivery;
pub(crate) mod reply;
mod webhooks;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use nitejar_common::clock::SharedClock;
use nitejar_common::error::{Code, Error, Result};
use nitejar_common::secret::Secret;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::config::GithubConfig;

/// Pages of 100 that we read at the most.
const PAGES: u32 = 50;
/// The API version that we speak.
const VERSION: &str = "2022-11-28";

/// (installation, repository) → token and when it ends.
type Tokens = HashMap<(i64, u64), (Secret, DateTime<Utc>)>;

/// The App.
pub(crate) struct Github {
    config: GithubConfig,
    key: EncodingKey,
    http: reqwest::Client,
    clock: SharedClock,
    tokens: Mutex<Tokens>,
}

impl Github {
    /// None when GitHub is off.
    pub(crate) fn new(config: &GithubConfig, clock: SharedClock) -> Result<Option<Self>> {
        if config.app_id == 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            key: EncodingKey::from_rsa_pem(config.private_pem().expose().as_bytes())?,
            http: nitejar_runtime::http::client(Duration::from_secs(10))?,
            config: config.clone(),
            clock,
            tokens: Mutex::default(),
        }))
    }

    /// Whether a webhook's signature fits its body. Compared in constant time.
    pub(crate) fn signed(&self, body: &[u8], signature: &str) -> bool {
        let Some(given) = signature.strip_prefix("sha256=").and_then(|hex_text| hex::decode(hex_text).ok())
        else {
            return false;
        };
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.config.webhook_secret.expose().as_bytes())
        else {
            return false;
        };
        mac.update(body);
        mac.verify_slice(&given).is_ok()
    }

    /// Where a person installs the App.
    pub(crate) fn install_url(&self, state: &str) -> String {
        format!("{}/apps/{}/installations/new?state={state}", self.config.web_url, self.config.app_slug)
    }

    fn app_token(&self) -> Result<String> {
        let now = self.clock.now().timestamp();
        // GitHub's clock may be behind ours, and it refuses more than ten minutes.
        let claims = json!({ "iat": now - 60, "exp": now + 540, "iss": self.config.app_id.to_string() });
        Ok(jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &self.key)?)
    }

    fn api(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.config.api_url))
            .bearer_auth(token)
            .header("Accept", "application/vnd.github+json")
            .header("X-GitHub-Api-Version", VERSION)
    }

    /// The person behind an OAuth code.
    pub(crate) async fn exchange_code(&self, code: &str) -> Result<Secret> {
        let response = self
            .http
            .post(format!("{}/login/oauth/access_token", self.config.web_url))
            .header("Accept", "application/json")
            .form(&[
                ("client_id", self.config.client_id.as_str()),
                ("client_secret", self.config.client_secret.expose()),
                ("code", code),
            ])
            .send()
            .await
            .map_err(unreachable)?;
        let answer: Value = read(response).await?;
        // GitHub answers 200 with an error inside.
        match answer["access_token"].as_str() {
            Some(token) => Ok(Secret::new(token)),
            None => Err(Error::new(
                Code::PermissionDenied,
                "GitHub does not accept this code. Start the install again.",
            )),
        }
    }

    /// All installations that a person can see: every page, not the first one.
    pub(crate) async fn user_installations(&self, user: &Secret) -> Result<Vec<i64>> {
        let all = self.pages("/user/installations", "installations", user.expose()).await?;
        Ok(all.iter().filter_map(|i| i["id"].as_i64()).collect())
    }

    /// The account that an installation is on.
    pub(crate) async fn installation(&self, id: i64) -> Result<String> {
        let path = format!("/app/installations/{id}");
        let response = self.api(Method::GET, &path, &self.app_token()?).send().await.map_err(unreachable)?;
        let answer = read(response).await?;
        Ok(answer["account"]["login"].as_str().unwrap_or_default().to_owned())
    }

    /// The repositories of an installation: GitHub's number → `owner/name`.
    pub(crate) async fn repositories(&self, installation: i64) -> Result<BTreeMap<String, String>> {
        let token = self.token(installation, None).await?;
        let all = self.pages("/installation/repositories", "repositories", token.expose()).await?;
        Ok(all
            .iter()
            .filter_map(|r| Some((r["id"].as_u64()?.to_string(), r["full_name"].as_str()?.to_owned())))
            .collect())
    }

    async fn pages(&self, path: &str, field: &str, token: &str) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        for page in 1..=PAGES {
            let path = format!("{path}?per_page=100&page={page}");
            let response = self.api(Method::GET, &path, token).send().await.map_err(unreachable)?;
            let answer = read(response).await?;
            let items = answer[field].as_array().cloned().unwrap_or_default();
            let last = items.len() < 100;
            all.extend(items);
            if last {
                break;
            }
        }
        Ok(all)
    }

    /// An installation's token, narrowed to one repository and to what a reply needs, where one is named.
    pub(crate) async fn token(&self, installation: i64, repository: Option<u64>) -> Result<Secret> {
        let key = (installation, repository.unwrap_or(0));
        let now = self.clock.now();
        {
            let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((token, ends)) = tokens.get(&key)
                && *ends > now + chrono::Duration::minutes(2)
            {
                return Ok(token.clone());
            }
        }
        let path = format!("/app/installations/{installation}/access_tokens");
        let body = match repository {
            Some(id) => {
                json!({ "repository_ids": [id], "permissions": { "issues": "write", "pull_requests": "write" } })
            }
            None => json!({}),
        };
        let request = self.api(Method::POST, &path, &self.app_token()?).json(&body);
        let answer = read(request.send().await.map_err(unreachable)?).await?;
        let token = answer["token"].as_str().map(Secret::new);
        let token = token.ok_or_else(|| Error::internal("GitHub gave no token"))?;
        let ends = answer["expires_at"].as_str().and_then(|t| t.parse().ok()).unwrap_or(now);
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() > 10_000 {
            tokens.retain(|_, (_, ends)| *ends > now);
        }
        tokens.insert(key, (token.clone(), ends));
        Ok(token)
    }

    /// Forgets a token that was refused.
    pub(crate) fn forget_token(&self, installation: i64, repository: u64) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.remove(&(installation, repository));
    }

    /// Comments on an issue or pull request, unless a comment with this marker is there.
    /// One that was written since `since`: the marker is not older.
    pub(crate) async fn comment_once(
        &self,
        to: &reply::Target,
        marker: &str,
        text: &str,
        since: DateTime<Utc>,
    ) -> Result<()> {
        match self.comment_at(to, &to.repository, marker, text, since).await {
            // The repository was renamed or moved: its number is still the same.
            Err(error) if error.code() == Code::Conflict => {
                let names = self.repositories(to.installation_id).await?;
                let name = names.get(&to.repository_id.to_string());
                let name =
                    name.ok_or_else(|| Error::new(Code::NotFound, "GitHub does not know this repository."))?;
                self.comment_at(to, name, marker, text, since).await
            }
            other => other,
        }
    }

    async fn comment_at(
        &self,
        to: &reply::Target,
        repository: &str,
        marker: &str,
        text: &str,
        since: DateTime<Utc>,
    ) -> Result<()> {
        // GitHub's clock and ours may differ by a little.
        let since = (since - chrono::Duration::minutes(5)).to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let token = self.token(to.installation_id, Some(to.repository_id)).await?;
        let path = format!("/repos/{repository}/issues/{}/comments", to.number);
        // An answer that was lost may have done its work: look before writing again.
        for page in 1..=PAGES {
            let list = format!("{path}?per_page=100&page={page}&since={since}");
            let response = self.api(Method::GET, &list, token.expose()).send().await.map_err(unreachable)?;
            let comments = self.checked(to, response).await?;
            let comments = comments.as_array().cloned().unwrap_or_default();
            if comments.iter().any(|c| c["body"].as_str().is_some_and(|b| b.contains(marker))) {
                return Ok(());
            }
            if comments.len() < 100 {
                break;
            }
        }
        let body = json!({ "body": format!("{text}\n\n{marker}") });
        let request = self.api(Method::POST, &path, token.expose()).json(&body);
        let response = request.send().await.map_err(unreachable)?;
        self.checked(to, response).await?;
        Ok(())
    }

    async fn checked(&self, to: &reply::Target, response: Response) -> Result<Value> {
        if response.status() == StatusCode::UNAUTHORIZED {
            self.forget_token(to.installation_id, to.repository_id);
        }
        read(response).await
    }
}

fn unreachable(error: reqwest::Error) -> Error {
    Error::unavailable().because(error)
}

/// Where the next page begins, from the Link header.
fn next_cursor(response: &Response) -> Option<String> {
    let link = response.headers().get("link")?.to_str().ok()?;
    let next = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let cursor = next.split("cursor=").nth(1)?;
    Some(cursor.split(['&', '>']).next()?.to_owned())
}

/// GitHub's answer, or what its refusal means to us.
async fn read(response: Response) -> Result<Value> {
    let status = response.status();
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (retry_after, remaining) = (header("retry-after"), header("x-ratelimit-remaining"));
    if status.is_success() {
        return response.json().await.map_err(unreachable);
    }
    let text: String = response.text().await.unwrap_or_default().chars().take(300).collect();
    let limited = status == StatusCode::TOO_MANY_REQUESTS
        || (status == StatusCode::FORBIDDEN && (retry_after.is_some() || remaining.as_deref() == Some("0")));
    let wait = Duration::from_secs(retry_after.and_then(|s| s.parse().ok()).unwrap_or(60));
    let error = match status {
        _ if limited => Error::new(Code::RateLimited, "GitHub asks us to wait.").retry_after(wait),
        s if s.is_server_error() || s == StatusCode::UNAUTHORIZED => Error::unavailable(),
        s if s.is_redirection() => Error::new(Code::Conflict, "GitHub has it elsewhere now."),
        StatusCode::NOT_FOUND | StatusCode::GONE => Error::new(Code::NotFound, "GitHub does not know this."),
        StatusCode::FORBIDDEN => Error::new(Code::PermissionDenied, "GitHub does not let us do this."),
        _ => Error::new(Code::InvalidArgument, "GitHub does not take this."),
    };
    Err(error.because(format!("GitHub answered {status}: {text}")))
}

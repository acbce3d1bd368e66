//! A small client of the public API, for the demo, the benches and the tests.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::Method;
use serde_json::Value;

/// A credential at a gateway.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Its JSON, or its text as a JSON string.
    pub body: Value,
    /// Its headers.
    pub headers: reqwest::header::HeaderMap,
}

impl Client {
    /// `base`: `http://host:port`. `key`: empty for none.
    pub fn new(base: &str, key: &str) -> Result<Self> {
        Ok(Self {
            http: nitejar_runtime::http::client(Duration::from_secs(60))?,
            base: base.trim_end_matches('/').to_owned(),
            key: key.to_owned(),
        })
    }

    /// The same gateway with another credential.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// Its credential.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The same credential at another gateway.
    #[must_use]
    pub fn at(&self, base: &str) -> Self {
        Self { base: base.trim_end_matches('/').to_owned(), ..self.clone() }
    }

    /// A request, to be changed before it is sent.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        if self.key.is_empty() { request } else { request.bearer_auth(&self.key) }
    }

    /// Sends and reads whatever comes.
    pub async fn send(request: reqwest::RequestBuilder) -> Result<Answer> {
        let response = request.send().await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer { status, body, headers })
    }

    /// Whatever comes of a call.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        Self::send(request).await
    }

    async fn ok(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer =
            self.call(method.clone(), path, body).await.with_context(|| format!("{method} {path}"))?;
        if answer.status >= 300 {
            bail!("{method} {path} answered {}: {}", answer.status, answer.body);
        }
        Ok(answer.body)
    }

    /// GET that must succeed.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.ok(Method::GET, path, None).await
    }

    /// POST that must succeed.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.ok(Method::POST, path, Some(body)).await
    }

    /// PATCH that must succeed.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        self.ok(Method::PATCH, path, Some(body)).await
    }

    /// PUT that must succeed.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.ok(Method::PUT, path, Some(body)).await
    }

    /// DELETE that must succeed.
    pub async fn delete(&self, path: &str) -> Result<Value> {
        self.ok(Method::DELETE, path, None).await
    }

    /// Every item of a list, page by page.
    pub async fn all(&self, path: &str, field: &str) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut token = String::new();
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            let page = self.get(&format!("{path}{joint}page_token={token}")).await?;
            items.extend(page[field].as_array().cloned().unwrap_or_default());
            token = page["next_page_token"].as_str().unwrap_or_default().to_owned();
            if token.is_empty() {
                return Ok(items);
            }
        }
    }

    /// Asks again, whatever the answer, until it is a good one.
    pub async fn until_ok(&self, path: &str, seconds: u64) -> Result<Value> {
        let until = tokio::time::Instant::now() + Duration::from_secs(seconds);
        loop {
            match self.get(path).await {
                Err(error) if tokio::time::Instant::now() > until => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                good => return good,
            }
        }
    }

    /// Asks again until the answer is as wished.
    pub async fn until(
        &self,
        path: &str,
        seconds: u64,
        what: &str,
        done: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let until = tokio::time::Instant::now() + Duration::from_secs(seconds);
        loop {
            let answer = self.get(path).await?;
            if done(&answer) {
                return Ok(answer);
            }
            if tokio::time::Instant::now() > until {
                bail!("waited {seconds} s for {what}; {path} says {answer}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A text of an answer.
pub fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

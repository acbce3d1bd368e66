//! The public API over HTTP.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::{COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use serde_json::Value;

use crate::failure::{Failure, Result};

/// Tries of a request whose answer did not come.
const TRIES: u32 = 4;

/// A credential at the API.
pub struct Api {
    http: reqwest::Client,
    url: String,
    key: String,
}

/// A part of a path, as it must be written there.
pub fn part(text: &str) -> String {
    // Ids, handles and names of ours hold nothing else than these.
    const PLAIN: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
    utf8_percent_encode(text, PLAIN).to_string()
}

impl Api {
    /// `key`: empty for none.
    pub fn new(url: &str, key: &str) -> Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("nitejar-cli/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Failure::network(&error))?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), key: key.to_owned() })
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        if self.key.is_empty() { request } else { request.bearer_auth(&self.key) }
    }

    /// The answer's JSON. What got none is asked again: a write has a key of its own, so that it happens once.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let once = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let mut tries = 0;
        loop {
            tries += 1;
            let mut request = self.request(method.clone(), path).timeout(Duration::from_secs(60));
            if method == Method::POST {
                request = request.header("Idempotency-Key", &once);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            match Self::answer(request).await {
                Ok((_, answer)) => return Ok(answer),
                // An earlier try of ours deleted it.
                Err((_, failure)) if tries > 1 && method == Method::DELETE && failure.is_not_found() => {
                    return Ok(Value::Null);
                }
                Err((again, failure)) if !again || tries == TRIES => return Err(failure),
                Err(_) => tokio::time::sleep(Duration::from_millis(250 << tries)).await,
            }
        }
    }

    /// What is no JSON, as it came.
    pub async fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        let mut tries = 0;
        loop {
            tries += 1;
            let request = self.request(Method::GET, path).timeout(Duration::from_secs(60));
            let got = async {
                let response = request.send().await.map_err(|e| (true, Failure::network(&e)))?;
                let status = response.status().as_u16();
                let body = response.bytes().await.map_err(|e| (true, Failure::network(&e)))?;
                if status < 300 {
                    return Ok(body.to_vec());
                }
                let problem = serde_json::from_slice(&body).unwrap_or(Value::Null);
                Err((matches!(status, 502..=504), Failure::refused(status, &problem)))
            };
            match got.await {
                Ok(bytes) => return Ok(bytes),
                Err((again, failure)) if !again || tries == TRIES => return Err(failure),
                Err(_) => tokio::time::sleep(Duration::from_millis(250 << tries)).await,
            }
        }
    }

    /// The answer, or whether it is worth another try.
    async fn answer(request: reqwest::RequestBuilder) -> Result<(HeaderMap, Value), (bool, Failure)> {
        let network = |error: reqwest::Error| (true, Failure::network(&error));
        let response = request.send().await.map_err(network)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.map_err(network)?;
        let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if status >= 300 {
            let again = matches!(status, 502..=504) || answer["code"] == "idempotency_key_in_use";
            return Err((again, Failure::refused(status, &answer)));
        }
        Ok((headers, answer))
    }

    /// A request of somebody who is not signed in yet, with cookies.
    pub async fn with_cookies(&self, path: &str, body: &Value, cookies: &mut Vec<String>) -> Result<Value> {
        let mut request =
            self.http.post(format!("{}{path}", self.url)).json(body).timeout(Duration::from_secs(60));
        if let Ok(line) = HeaderValue::from_str(&cookies.join("; "))
            && !cookies.is_empty()
        {
            request = request.header(COOKIE, line);
        }
        let (headers, answer) = Self::answer(request).await.map_err(|(_, failure)| failure)?;
        for line in headers.get_all(SET_COOKIE).iter().filter_map(|line| line.to_str().ok()) {
            let pair = line.split(';').next().unwrap_or_default().to_owned();
            let name = pair.split('=').next().unwrap_or_default();
            cookies.retain(|known| known.split('=').next() != Some(name));
            cookies.push(pair);
        }
        Ok(answer)
    }

    /// Items of a list, page by page, at most so many.
    pub async fn list(&self, path: &str, field: &str, most: usize) -> Result<Vec<Value>> {
        let mut items: Vec<Value> = Vec::new();
        let mut token = String::new();
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            let page =
                self.call(Method::GET, &format!("{path}{joint}page_token={}", part(&token)), None).await?;
            items.extend(page[field].as_array().cloned().unwrap_or_default());
            token = page["next_page_token"].as_str().unwrap_or_default().to_owned();
            if token.is_empty() || items.len() >= most {
                items.truncate(most);
                return Ok(items);
            }
        }
    }

    /// Each event of a stream, in order and once, also across broken connections.
    pub async fn events(&self, path: &str, mut each: impl FnMut(Value) -> Result<()>) -> Result<()> {
        let (mut last, mut tries) = (String::new(), 0);
        loop {
            let mut request = self.request(Method::GET, path);
            if !last.is_empty() {
                request = request.header("Last-Event-ID", &last);
            }
            match self.stream(request, &mut last, &mut each, &mut tries).await {
                Ok(()) => return Ok(()),
                Err((again, failure)) if !again || tries >= TRIES => return Err(failure),
                Err(_) => tokio::time::sleep(Duration::from_millis(250 << tries)).await,
            }
            tries += 1;
        }
    }

    async fn stream(
        &self,
        request: reqwest::RequestBuilder,
        last: &mut String,
        each: &mut impl FnMut(Value) -> Result<()>,
        tries: &mut u32,
    ) -> Result<(), (bool, Failure)> {
        let network = |error: reqwest::Error| (true, Failure::network(&error));
        let mut response = request.send().await.map_err(network)?;
        let status = response.status().as_u16();
        if status >= 300 {
            let problem: Value = response.json().await.unwrap_or_default();
            return Err((status >= 502, Failure::refused(status, &problem)));
        }
        let mut buffer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(network)? {
            buffer.extend_from_slice(&chunk);
            while let Some(end) = buffer.windows(2).position(|w| w == b"\n\n") {
                let event: Vec<u8> = buffer.drain(..end + 2).collect();
                let event = String::from_utf8_lossy(&event).into_owned();
                let field =
                    |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
                let data: Value = serde_json::from_str(field("data: ")).unwrap_or_default();
                if field("event: ") == "error" {
                    let status = data["status"].as_u64().and_then(|s| u16::try_from(s).ok()).unwrap_or(500);
                    return Err((status >= 502, Failure::refused(status, &data)));
                }
                if !data.is_null() {
                    each(data).map_err(|failure| (false, failure))?;
                    field("id: ").clone_into(last);
                    *tries = 0;
                }
            }
        }
        Ok(())
    }
}

//! Signing in and out.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use reqwest::Method;
use serde_json::json;

use crate::api::{Api, part};
use crate::config::{self, Config};
use crate::failure::{Failure, Result};
use crate::output::{Shape, aside};

/// One line of the input, asked for where a person types it. Never an argument: those stand in shells' histories.
pub(super) fn read_line(prompt: &str) -> Result<String> {
    if std::io::stdin().is_terminal() {
        let _ = write!(std::io::stderr(), "{prompt}");
        let _ = std::io::stderr().flush();
    }
    let mut text = String::new();
    std::io::stdin().lock().read_line(&mut text)?;
    let text = text.trim().to_owned();
    if text.is_empty() { Err(Failure::new("Nothing was given.")) } else { Ok(text) }
}

pub(super) async fn login(
    mut config: Config,
    url: &str,
    email: Option<String>,
    key_stdin: bool,
    shape: Shape,
) -> Result<()> {
    config.url = url.to_owned();
    if key_stdin {
        config.key = read_line("The API key: ")?;
        config.key_id.clear();
    } else {
        let email = match email {
            Some(email) => email,
            None => read_line("Your e-mail address: ")?,
        };
        let (id, key) = by_link(url, &email).await?;
        (config.key_id, config.key) = (id, key);
    }
    let me = Api::new(url, &config.key)?.call(Method::GET, "/v1/me", None).await;
    // A key of an organization is nobody's own: it may do what it may, but is no person.
    let (text, answer) = match me {
        Ok(me) => (format!("Signed in as {}.", me["email"].as_str().unwrap_or_default()), me),
        Err(_) if key_stdin && config.key.starts_with("njk_") => ("The key is kept.".to_owned(), json!({})),
        Err(failure) => return Err(failure),
    };
    config.save()?;
    aside(&format!("Kept in {}.", config::path()?.display()));
    shape.done(&text, &answer)
}

/// Signs in as a browser would, takes a key for this machine, and ends the session again. Answers (id, key).
async fn by_link(url: &str, email: &str) -> Result<(String, String)> {
    let api = Api::new(url, "")?;
    let mut cookies = Vec::new();
    api.with_cookies("/v1/sign-in", &json!({ "email": email }), &mut cookies).await?;
    aside(&format!("A link is on its way to {email}. Don't open it: copy it here."));
    let link = read_line("The link: ")?;
    let token = link.split("#token=").last().unwrap_or_default();
    api.with_cookies("/v1/sign-in:finish", &json!({ "token": token }), &mut cookies).await?;
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = format!("nitejar CLI {}", host.trim());
    let key = api.with_cookies("/v1/me/keys", &json!({ "name": name.trim() }), &mut cookies).await?;
    api.with_cookies("/v1/me:signOut", &json!({}), &mut cookies).await?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok((text(&key["key"]["id"]), text(&key["secret"])))
}

pub(super) async fn logout(config: Config, url: &str, shape: Shape) -> Result<()> {
    if config.key.is_empty() {
        return Err(Failure::signed_out());
    }
    let mut revoked = Ok(serde_json::Value::Null);
    if !config.key_id.is_empty() {
        let path = format!("/v1/me/keys/{}", part(&config.key_id));
        revoked = Api::new(url, &config.key)?.call(Method::DELETE, &path, None).await;
    }
    // Forgotten here whatever the service says.
    Config { url: config.url, ..Config::default() }.save()?;
    revoked?;
    shape.done("Signed out.", &json!({}))
}

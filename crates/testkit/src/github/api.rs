//! The REST API and OAuth, as far as our App uses them, with GitHub's own shapes.

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use chrono::{DateTime, SecondsFormat, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use super::Shared;
use super::state::{Comment, Exchange, Token};

/// An answer that is not what was asked for.
struct Refusal(StatusCode, &'static str);

type Answer = Result<(StatusCode, Value), Refusal>;

const NOT_FOUND: Refusal = Refusal(StatusCode::NOT_FOUND, "Not Found");
const BAD: Refusal = Refusal(StatusCode::UNAUTHORIZED, "Bad credentials");

#[expect(clippy::disallowed_methods, reason = "testkit stands below the crate that has the clock")]
pub(super) fn now() -> DateTime<Utc> {
    Utc::now()
}

pub(super) async fn handle(State(shared): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
    let (method, path) = (parts.method, parts.uri.path().to_owned());
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let fault = shared.state().take_fault(method.as_str(), &path);
    match fault.as_deref() {
        Some("reset") => return broken(),
        Some("rate_limit") => {
            let mut response =
                json_response(StatusCode::FORBIDDEN, &message("You have exceeded a secondary rate limit."));
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            return response;
        }
        Some("unauthorized") => return json_response(StatusCode::UNAUTHORIZED, &message("Bad credentials")),
        Some(status) if status.starts_with("status:") => {
            let status = status[7..].parse().ok().and_then(|s: u16| StatusCode::from_u16(s).ok());
            return json_response(
                status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
                &message("Service Unavailable"),
            );
        }
        _ => {}
    }
    let answer = route(&shared, &method, &path, &query, &parts.headers, &body);
    let link = next_page(&shared, &path, &query);
    let (status, value) = answer.unwrap_or_else(|Refusal(status, text)| (status, message(text)));
    shared.state().note(Exchange {
        method: method.to_string(),
        path,
        query,
        request: serde_json::from_slice(&body).unwrap_or_default(),
        status: status.as_u16(),
        response: value.clone(),
    });
    if fault.as_deref() == Some("lost_answer") {
        return broken();
    }
    let mut response = json_response(status, &value);
    if let Some(link) = link.and_then(|l| HeaderValue::from_str(&l).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

/// The Link header of a page of deliveries that is not the last one.
fn next_page(shared: &Shared, path: &str, query: &str) -> Option<String> {
    if path != "/app/hook/deliveries" {
        return None;
    }
    let page = delivery_page(shared, query);
    let last = page.last()?["id"].as_u64()?;
    let more = shared.state().deliveries.iter().any(|d| d.id < last);
    more.then(|| {
        format!("<https://api.github.com/app/hook/deliveries?per_page=100&cursor={last}>; rel=\"next\"")
    })
}

/// Deliveries before the cursor, the newest first.
fn delivery_page(shared: &Shared, query: &str) -> Vec<Value> {
    let cursor = query.split('&').find_map(|p| p.strip_prefix("cursor=")).and_then(|c| c.parse::<u64>().ok());
    let (_, size) = paging(query);
    let state = shared.state();
    let before = state.deliveries.iter().rev().filter(|d| cursor.is_none_or(|c| d.id < c));
    before
        .take(size)
        .map(|d| {
            let text = if d.status == 0 { "failed to connect to host".to_owned() } else { d.status.to_string() };
            json!({
                "id": d.id, "guid": d.guid, "delivered_at": d.at, "redelivery": d.redelivery, "duration": 0.1, "status": text,
                "status_code": d.status, "event": d.event, "action": d.payload["action"].as_str(),
                "installation_id": d.payload["installation"]["id"].as_u64(), "repository_id": d.payload["repository"]["id"].as_u64(),
                "throttled_at": null,
            })
        })
        .collect()
}

/// Delivers again, later, as GitHub does.
fn redeliver(shared: &Shared, id: u64) -> Answer {
    let found = shared.state().deliveries.iter().find(|d| d.id == id).cloned().ok_or(NOT_FOUND)?;
    let shared = shared.clone();
    tokio::spawn(async move {
        let _ =
            super::control::attempt(&shared, &found.event, &found.payload, &found.guid, "right", true).await;
    });
    Ok((StatusCode::ACCEPTED, json!({})))
}

fn message(text: &str) -> Value {
    json!({ "message": text, "documentation_url": "https://docs.github.com/rest" })
}

fn json_response(status: StatusCode, value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// A body that breaks off: the client sees a broken connection.
fn broken() -> Response {
    let error =
        futures_util::stream::once(async { Err::<Bytes, _>(std::io::Error::other("the connection broke")) });
    let mut response = Response::new(Body::from_stream(error));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("9"));
    response
}

fn bearer(headers: &HeaderMap) -> &str {
    let value = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("token ")).unwrap_or_default()
}

fn route(
    shared: &Shared,
    method: &Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Answer {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let json_body: Value = serde_json::from_slice(body).unwrap_or_default();
    match (method.as_str(), parts.as_slice()) {
        ("POST", ["login", "oauth", "access_token"]) => exchange(shared, body),
        ("GET", ["meta", "public_keys", "secret_scanning"]) => {
            Ok((StatusCode::OK, json!({ "public_keys": shared.state().scanning_keys })))
        }
        ("GET", ["user", "installations"]) => user_installations(shared, headers, query),
        ("GET", ["app", "installations", id]) => {
            app(shared, headers)?;
            let id: u64 = id.parse().map_err(|_| NOT_FOUND)?;
            Ok((StatusCode::OK, installation(shared, id)?))
        }
        ("POST", ["app", "installations", id, "access_tokens"]) => {
            app(shared, headers)?;
            access_token(shared, id.parse().map_err(|_| NOT_FOUND)?, &json_body)
        }
        ("GET", ["app", "hook", "deliveries"]) => {
            app(shared, headers)?;
            Ok((StatusCode::OK, delivery_page(shared, query).into()))
        }
        ("POST", ["app", "hook", "deliveries", id, "attempts"]) => {
            app(shared, headers)?;
            redeliver(shared, id.parse().map_err(|_| NOT_FOUND)?)
        }
        ("GET", ["installation", "repositories"]) => repositories(shared, headers, query),
        (_, ["repos", owner, repo, "issues", number, "comments"]) => {
            let repo = format!("{owner}/{repo}");
            let number = number.parse().map_err(|_| NOT_FOUND)?;
            may_reach(shared, headers, &repo, *method == Method::POST)?;
            match method.as_str() {
                "GET" => list_comments(shared, &repo, number, query),
                "POST" => create_comment(shared, &repo, number, &json_body),
                _ => Err(NOT_FOUND),
            }
        }
        _ => Err(NOT_FOUND),
    }
}

/// The App's own token, checked as GitHub does.
fn app(shared: &Shared, headers: &HeaderMap) -> Result<(), Refusal> {
    let key = DecodingKey::from_rsa_pem(shared.config.public_key.as_bytes()).map_err(|_| BAD)?;
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_issuer(&[shared.config.app_id.to_string()]);
    validation.validate_aud = false;
    let token = jsonwebtoken::decode::<Value>(bearer(headers), &key, &validation)
        .map_err(|_| Refusal(StatusCode::UNAUTHORIZED, "A JSON web token could not be decoded"))?;
    let (iat, exp) = (token.claims["iat"].as_i64().unwrap_or(0), token.claims["exp"].as_i64().unwrap_or(0));
    if exp - now().timestamp() > 600 || iat > now().timestamp() {
        return Err(Refusal(
            StatusCode::UNAUTHORIZED,
            "'Expiration time' claim ('exp') is too far in the future",
        ));
    }
    Ok(())
}

fn exchange(shared: &Shared, body: &[u8]) -> Answer {
    let form: std::collections::HashMap<String, String> = String::from_utf8_lossy(body)
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    let is = |key: &str, value: &str| form.get(key).is_some_and(|v| v == value);
    if !is("client_id", &shared.config.client_id) || !is("client_secret", &shared.config.client_secret) {
        return Ok((StatusCode::OK, json!({ "error": "incorrect_client_credentials" })));
    }
    let mut state = shared.state();
    let login = form.get("code").and_then(|code| state.codes.remove(code));
    let Some(login) = login else { return Ok((StatusCode::OK, json!({ "error": "bad_verification_code" }))) };
    let token = format!("ghu_{}", state.id());
    state.user_tokens.insert(token.clone(), login);
    Ok((StatusCode::OK, json!({ "access_token": token, "token_type": "bearer", "scope": "" })))
}

fn account(login: &str) -> Value {
    let id = login.bytes().map(u64::from).sum::<u64>() + 1000;
    let url = format!("https://api.github.com/users/{login}");
    let mut user = json!({
        "login": login, "id": id, "node_id": "MDQ6VXNlcjE=", "avatar_url": "https://avatars.githubusercontent.com/u/1",
        "gravatar_id": "", "url": url, "html_url": format!("https://github.com/{login}"), "type": "Organization", "site_admin": false,
    });
    for name in ["followers", "subscriptions", "organizations", "repos", "received_events"] {
        user[format!("{name}_url")] = format!("{url}/{name}").into();
    }
    for (name, tail) in [
        ("following", "following{/other_user}"),
        ("gists", "gists{/gist_id}"),
        ("starred", "starred{/owner}{/repo}"),
        ("events", "events{/privacy}"),
    ] {
        user[format!("{name}_url")] = format!("{url}/{tail}").into();
    }
    user
}

fn installation(shared: &Shared, id: u64) -> Result<Value, Refusal> {
    let state = shared.state();
    let found = state.installations.get(&id).ok_or(NOT_FOUND)?;
    Ok(json!({
        "id": id, "account": account(&found.account), "repository_selection": "selected", "app_id": shared.config.app_id,
        "access_tokens_url": format!("https://api.github.com/app/installations/{id}/access_tokens"),
        "repositories_url": "https://api.github.com/installation/repositories",
        "html_url": format!("https://github.com/organizations/{}/settings/installations/{id}", found.account),
        "target_id": 1, "target_type": "Organization", "permissions": {"issues": "write", "pull_requests": "write", "metadata": "read"},
        "events": ["issues", "issue_comment"], "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        "single_file_name": null, "app_slug": shared.config.app_slug, "suspended_by": null, "suspended_at": null,
    }))
}

/// (page, size), from 1.
fn paging(query: &str) -> (usize, usize) {
    let get = |name: &str| {
        query
            .split('&')
            .filter_map(|p| p.split_once('='))
            .find(|(k, _)| *k == name)
            .and_then(|(_, v)| v.parse().ok())
    };
    (get("page").unwrap_or(1).max(1), get("per_page").unwrap_or(30).clamp(1, 100))
}

fn page<T>(items: Vec<T>, query: &str) -> Vec<T> {
    let (page, size) = paging(query);
    items.into_iter().skip((page - 1) * size).take(size).collect()
}

fn user_installations(shared: &Shared, headers: &HeaderMap, query: &str) -> Answer {
    let ids: Vec<u64> = {
        let state = shared.state();
        let login = state.user_tokens.get(bearer(headers)).ok_or(BAD)?;
        state.installations.iter().filter(|(_, i)| i.user == *login).map(|(id, _)| *id).collect()
    };
    let total = ids.len();
    let list: Vec<Value> =
        page(ids, query).into_iter().filter_map(|id| installation(shared, id).ok()).collect();
    Ok((StatusCode::OK, json!({ "total_count": total, "installations": list })))
}

fn access_token(shared: &Shared, id: u64, wish: &Value) -> Answer {
    let mut state = shared.state();
    let found = state.installations.get(&id).ok_or(NOT_FOUND)?.clone();
    let wished: Option<Vec<u64>> =
        wish["repository_ids"].as_array().map(|list| list.iter().filter_map(Value::as_u64).collect());
    if wished.iter().flatten().any(|r| !found.repositories.contains_key(r)) {
        let text = "There is at least one repository that does not exist or is not accessible to the parent installation.";
        return Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, text));
    }
    let token = format!("ghs_{}", state.id());
    let expires = now() + chrono::Duration::hours(1);
    let permissions = if wish["permissions"].is_object() { wish["permissions"].clone() } else { granted() };
    let wider = permissions.as_object().is_some_and(|p| p.keys().any(|name| granted()[name].is_null()));
    if wider {
        let text = "The permissions requested are not granted to this installation.";
        return Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, text));
    }
    state.tokens.insert(
        token.clone(),
        Token {
            installation: id,
            permissions: permissions.clone(),
            repositories: wished,
            expires_at: expires.timestamp(),
        },
    );
    Ok((
        StatusCode::CREATED,
        json!({ "token": token, "expires_at": expires.to_rfc3339_opts(SecondsFormat::Secs, true), "permissions": permissions,
            "repository_selection": "selected" }),
    ))
}

/// What every installation grants the App.
fn granted() -> Value {
    json!({ "issues": "write", "pull_requests": "write", "metadata": "read" })
}

fn repositories(shared: &Shared, headers: &HeaderMap, query: &str) -> Answer {
    let state = shared.state();
    let token = state.tokens.get(bearer(headers)).filter(|t| t.expires_at > now().timestamp()).ok_or(BAD)?;
    let found = state.installations.get(&token.installation).ok_or(NOT_FOUND)?;
    let reach = |id: &u64| token.repositories.as_ref().is_none_or(|list| list.contains(id));
    let all: Vec<(u64, String)> =
        found.repositories.iter().filter(|(id, _)| reach(id)).map(|(id, name)| (*id, name.clone())).collect();
    let total = all.len();
    let list: Vec<Value> =
        page(all, query).into_iter().map(|(id, name)| super::control::repository(id, &name)).collect();
    Ok((StatusCode::OK, json!({ "total_count": total, "repositories": list })))
}

fn may_reach(shared: &Shared, headers: &HeaderMap, repo: &str, write: bool) -> Result<(), Refusal> {
    let state = shared.state();
    let token = state.tokens.get(bearer(headers)).filter(|t| t.expires_at > now().timestamp()).ok_or(BAD)?;
    let found = state.installations.get(&token.installation).ok_or(NOT_FOUND)?;
    let id = found.repositories.iter().find(|(_, name)| *name == repo).map(|(id, _)| *id).ok_or(NOT_FOUND)?;
    if token.repositories.as_ref().is_some_and(|list| !list.contains(&id)) {
        return Err(NOT_FOUND);
    }
    if write && token.permissions["issues"] != "write" && token.permissions["pull_requests"] != "write" {
        return Err(Refusal(StatusCode::FORBIDDEN, "Resource not accessible by integration"));
    }
    Ok(())
}

fn comment_json(shared: &Shared, repo: &str, number: u64, c: &Comment) -> Value {
    let base = format!("https://api.github.com/repos/{repo}/issues");
    let mut user = account(&format!("{}[bot]", shared.config.app_slug));
    user["type"] = "Bot".into();
    json!({
        "id": c.id, "node_id": "MDEyOklzc3VlQ29tbWVudDE=", "url": format!("{base}/comments/{}", c.id), "body": c.body,
        "html_url": format!("https://github.com/{repo}/issues/{number}#issuecomment-{}", c.id), "user": user,
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "issue_url": format!("{base}/{number}"),
        "author_association": "NONE",
    })
}

fn list_comments(shared: &Shared, repo: &str, number: u64, query: &str) -> Answer {
    let comments = {
        let state = shared.state();
        let issue = state.issues.get(repo).and_then(|r| r.get(&number)).ok_or(NOT_FOUND)?;
        issue.comments.clone()
    };
    let list: Vec<Value> =
        page(comments, query).iter().map(|c| comment_json(shared, repo, number, c)).collect();
    Ok((StatusCode::OK, list.into()))
}

fn create_comment(shared: &Shared, repo: &str, number: u64, wish: &Value) -> Answer {
    let body = wish["body"].as_str().filter(|b| !b.is_empty() && b.len() <= 65_536);
    let body = body.ok_or(Refusal(StatusCode::UNPROCESSABLE_ENTITY, "Validation Failed"))?.to_owned();
    let comment = {
        let mut state = shared.state();
        let id = state.id();
        let issue = state.issues.get_mut(repo).and_then(|r| r.get_mut(&number)).ok_or(NOT_FOUND)?;
        let comment = Comment { id, body };
        issue.comments.push(comment.clone());
        comment
    };
    Ok((StatusCode::CREATED, comment_json(shared, repo, number, &comment)))
}

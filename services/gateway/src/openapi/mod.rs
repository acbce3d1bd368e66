//! The OpenAPI 3.1 document, from the descriptor set alone.

mod comments;
mod errors;
pub mod examples;
#[cfg(test)]
mod promise;
mod schema;

use std::sync::{Arc, LazyLock};

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderValue, header};
use nitejar_common::error::Code;
use nitejar_common::id::RequestId;
use nitejar_proto::policy::{Freshness, Scope};
use prost_reflect::FieldDescriptor;
use serde_json::{Map, Value, json};

use schema::Way;

use crate::problem;
use crate::service::Gateway;
use crate::transcode::request;
use crate::transcode::routes::{Route, Routes};

/// `GET /openapi.json`.
pub(crate) async fn serve(State(gateway): State<Arc<Gateway>>) -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());
    let mut response = Response::new(Body::from(TEXT.as_str()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    problem::finish(response, RequestId::new(&*gateway.clock).as_str())
}

/// The document.
pub fn document() -> Value {
    let mut schemas = schema::Schemas::default();
    let mut paths: Map<String, Value> = Map::new();
    for route in Routes::new().iter() {
        let Some(http) = &route.policy.http else { continue };
        let operation = operation(route, &mut schemas);
        let path = paths.entry(http.template.clone()).or_insert_with(|| json!({}));
        path[http.verb.to_lowercase()] = operation;
    }
    let mut components = schemas.finish();
    components.insert("Problem".into(), problem_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Nitejar Cloud",
            "version": "v1",
            "description": "The hosted, multi-tenant Nitejar. Names are snake_case; absent objects and optionals are left out, \
                defaults are written; 64-bit numbers beyond 2^53-1 are strings; unknown fields and parameters are refused. \
                Where a path begins with `/v1/orgs/{org_id}`, a slug that one of the caller's organizations has, or had before it \
                was renamed, is answered with 307 and the same path with the organization's id in `Location`; nothing else is done, \
                and nothing is metered.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"session": []}],
        "x-errors": errors::all(),
        "tags": tags(),
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key: `njk_…`."},
                "session": {
                    "type": "apiKey", "in": "cookie", "name": "__Host-nj_session",
                    "description": "A browser that is signed in. Writes must come from our own pages.",
                },
            },
        },
    })
}

fn tags() -> Vec<Value> {
    let mut names: Vec<(String, String)> = Routes::new()
        .iter()
        .map(|r| {
            let service = r.method.parent_service();
            (service.name().to_owned(), comments::of(&service.parent_file(), service.path()))
        })
        .collect();
    names.sort();
    names.dedup();
    names.into_iter().map(|(name, description)| json!({"name": name, "description": description})).collect()
}

fn operation(route: &Route, schemas: &mut schema::Schemas) -> Value {
    let policy = route.policy;
    let http = policy.http.as_ref().map(|h| (h.verb, h.body.as_str())).unwrap_or_default();
    let method = &route.method;
    let text = comments::of(&method.parent_service().parent_file(), method.path());
    let input = method.input();
    let bound: Vec<&str> = route.variables().collect();
    let etag = input.get_field_by_name("etag").is_some();
    let mut parameters: Vec<Value> = Vec::new();
    for name in &bound {
        if let Some(field) = input.get_field_by_name(name) {
            let mut schema = schemas.field(&field, Way::In);
            schema.as_object_mut().map(|s| s.remove("description"));
            let description = comments::of(&input.parent_file(), field.path());
            parameters.push(json!({"name": name, "in": "path", "required": true, "schema": schema, "description": description}));
        }
    }
    if etag {
        parameters.push(json!({
            "name": "If-Match", "in": "header", "required": false, "schema": {"type": "string", "maxLength": 64, "pattern": "^[ -+\\--~]*[#-+\\-.0-VX-~][ -+\\--~]*$"},
            "description": "One ETag, as it was read. A change in between is refused with 412.",
        }));
    }
    if method.is_server_streaming() && input.get_field_by_name(request::AFTER).is_some() {
        parameters.push(json!({
            "name": "Last-Event-ID", "in": "header", "required": false,
            "schema": {"type": "integer", "format": "int64", "minimum": 0, "maximum": 9_007_199_254_740_991_i64},
            "description": "The id of the last event that was seen: the stream goes on after it. Counts more than `after`.",
        }));
    }
    if takes_idempotency_key(route) {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
            "description": "Makes it safe to repeat the request: for 24 hours the same key with the same request gets the same \
                answer, and nothing happens twice.",
        }));
    }
    let left: Vec<FieldDescriptor> =
        input.fields().filter(|f| !bound.contains(&f.name()) && f.name() != "etag" && !filled(f)).collect();
    let mut operation = json!({
        "operationId": format!("{}.{}", method.parent_service().name(), method.name()),
        "tags": [method.parent_service().name()],
        "summary": text.split_once(". ").map_or(text.as_str(), |(first, _)| first).trim_end_matches('.'),
        "description": text,
        "x-scope": format!("{:?}", policy.scope).to_lowercase(),
        "x-idempotent": policy.idempotent,
    });
    if let Some(permission) = &policy.permission {
        operation["x-permission"] = permission.clone().into();
    }
    if let Some(audit) = &policy.audit {
        operation["x-audit-action"] = audit.clone().into();
    }
    match policy.scope {
        Scope::Public => operation["security"] = json!([{}]),
        Scope::Operator | Scope::Runner => operation["security"] = json!([{"bearer": []}]),
        _ => {}
    }
    let rpc = format!("{}.{}", method.parent_service().name(), method.name());
    let template = policy.http.as_ref().map_or("", |h| h.template.as_str());
    operation["x-example"] =
        json!({"path": examples::filled(&format!("{template}{}", examples::query(&rpc)))});
    if let Some(body) = examples::body(&rpc) {
        operation["x-example"]["body"] = body;
    } else if !http.1.is_empty() {
        operation["x-example"]["body"] = json!({});
    }
    if http.1.is_empty() {
        for field in &left {
            let rules = crate::transcode::rules::rules(field);
            let mut schema = schemas.field(field, Way::In);
            schema.as_object_mut().map(|s| s.remove("description"));
            parameters.push(json!({
                "name": field.name(), "in": "query", "required": rules.required, "schema": schema,
                "description": comments::of(&input.parent_file(), field.path()),
            }));
        }
    } else {
        let schema = schemas.object(&left, Way::In);
        let required = left.iter().any(|f| crate::transcode::rules::rules(f).required);
        let example = operation["x-example"]["body"].clone();
        operation["requestBody"] = json!({
            "required": required,
            "content": {"application/json": {"schema": schema, "example": example}},
        });
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    operation["responses"] = responses(route, schemas, etag);
    operation
}

/// Not the caller's to give.
fn filled(field: &FieldDescriptor) -> bool {
    !crate::transcode::rules::rules(field).from.is_empty()
}

/// See `idempotency`.
fn takes_idempotency_key(route: &Route) -> bool {
    let post = route.policy.http.as_ref().is_some_and(|h| h.verb == "POST");
    post && !matches!(route.policy.scope, Scope::Public | Scope::Runner)
}

fn responses(route: &Route, schemas: &mut schema::Schemas, etag: bool) -> Value {
    let output = if route.raw { Value::Null } else { schemas.reference(&route.method.output(), Way::Out) };
    let request_id =
        json!({"schema": {"type": "string"}, "description": "The request's id, to tell support."});
    let content = if route.method.is_server_streaming() {
        json!({"text/event-stream": {"schema": {"type": "string", "description": "Events whose data is one JSON object each."}}})
    } else if route.raw {
        json!({"text/plain": {"schema": {"description": "A JSON object on each line."}}})
    } else {
        json!({"application/json": {"schema": output}})
    };
    let mut ok = json!({"description": "Done.", "content": content, "headers": {"X-Request-Id": request_id}});
    if etag {
        ok["headers"]["ETag"] =
            json!({"schema": {"type": "string"}, "description": "The version that was read or written."});
    }
    let mut left = json!({});
    if route.policy.scope != Scope::Public {
        left["RateLimit-Policy"] =
            json!({"schema": {"type": "string"}, "description": "The limit: `q` requests in `w` seconds."});
        left["RateLimit"] = json!({"schema": {"type": "string"}, "description": "What is left: `r` requests, for `t` seconds."});
        if let (Some(headers), Some(left)) = (ok["headers"].as_object_mut(), left.as_object()) {
            headers.extend(left.clone());
        }
    }
    if takes_idempotency_key(route) {
        ok["headers"]["Idempotency-Replayed"] = json!({
            "schema": {"type": "string", "enum": ["true"]}, "description": "There when this is the answer to an earlier request.",
        });
    }
    let mut all = Map::new();
    all.insert("200".into(), ok);
    for (status, codes) in refusals(route, etag) {
        let words: Vec<&str> = codes.iter().map(|c| c.as_str()).collect();
        let mut headers = json!({"X-Request-Id": request_id});
        if matches!(status, 429 | 503) {
            headers["Retry-After"] =
                json!({"schema": {"type": "integer", "minimum": 1}, "description": "Seconds to wait."});
        }
        let texts: Vec<String> = codes.iter().map(|c| format!("`{}`: {}", c.as_str(), c.title())).collect();
        all.insert(
            status.to_string(),
            json!({
                "description": texts.join(" "),
                "x-codes": words,
                "headers": headers,
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }),
        );
    }
    Value::Object(all)
}

/// The refusals that an operation may give, by status.
fn refusals(route: &Route, etag: bool) -> std::collections::BTreeMap<u16, Vec<Code>> {
    let policy = route.policy;
    let mut codes = vec![
        Code::InvalidArgument,
        Code::MalformedBody,
        Code::InvalidCredential,
        Code::NotFound,
        Code::PayloadTooLarge,
        Code::Internal,
        Code::RateLimited,
        Code::Unavailable,
        Code::Overloaded,
        Code::DeadlineExceeded,
    ];
    if takes_idempotency_key(route) {
        codes.extend([Code::IdempotencyKeyReused, Code::IdempotencyKeyInUse]);
    }
    if !route.cookies.is_empty() || policy.http.as_ref().is_some_and(|h| h.verb != "GET") {
        codes.push(Code::CrossSite);
    }
    if policy.scope != Scope::Public {
        codes.extend([Code::Unauthenticated, Code::PermissionDenied, Code::AddressNotAllowed]);
    }
    if policy.http.as_ref().is_some_and(|h| !h.body.is_empty()) {
        codes.push(Code::UnsupportedMediaType);
    }
    if policy.audit.is_some() {
        codes.extend([Code::AlreadyExists, Code::Conflict, Code::Aborted]);
    }
    if policy.metered {
        codes.push(Code::QuotaExceeded);
    }
    if etag {
        codes.push(Code::EtagMismatch);
    }
    let joins = policy.method == "AcceptInvitation";
    if joins || (policy.scope == Scope::Tenant && policy.audit.is_some() && !policy.while_suspended) {
        codes.extend([Code::OrgSuspended, Code::OrgDeleting]);
    }
    // Also who makes somebody an owner.
    let owners = ["UpdateMember", "CreateInvitation", "ResendInvitation"].contains(&policy.method.as_str());
    if policy.fresh != Freshness::Any || owners {
        codes.push(Code::SignInAgain);
    }
    match (policy.service.rsplit('.').next().unwrap_or_default(), policy.method.as_str()) {
        ("Members", _) if policy.audit.is_some() => codes.push(Code::LastOwner),
        (_, "FinishSignIn") => codes.push(Code::SignInLinkUnusable),
        (_, "AcceptInvitation") => codes.extend([Code::InvitationUnusable, Code::SeatsLimit]),
        (_, "DeclineInvitation") => codes.push(Code::InvitationUnusable),
        (_, "CreateInvitation") => codes.extend([Code::SeatsLimit, Code::FeatureNotInPlan]),
        (_, "JoinOrg") => {
            codes.extend([Code::SeatsLimit, Code::DomainRecordMissing, Code::DomainLookupFailed])
        }
        (_, "CreateOrg") => codes.push(Code::TooManyOrgs),
        (_, "VerifyDomain") => codes.extend([Code::DomainRecordMissing, Code::DomainLookupFailed]),
        (_, "CreateRole" | "UpdateRole" | "SetMemberRoles" | "CreateKey") => {
            codes.push(Code::FeatureNotInPlan)
        }
        (_, "DeleteMe" | "AcceptOwnership") => codes.push(Code::LastOwner),
        (_, "FinishGithubInstall") => codes.push(Code::InstallationBound),
        (_, "CreateAgent") => codes.push(Code::AgentsLimit),
        ("Runner", _) => codes.push(Code::StaleLease),
        _ => {}
    }
    let mut by_status: std::collections::BTreeMap<u16, Vec<Code>> = std::collections::BTreeMap::new();
    for code in codes {
        by_status.entry(code.http_status()).or_default().push(code);
    }
    by_status
}

fn problem_schema() -> Value {
    let codes: Vec<&str> = Code::ALL.iter().map(|c| c.as_str()).collect();
    json!({
        "type": "object",
        "description": "RFC 9457 problem details.",
        "required": ["type", "title", "status", "code", "detail", "request_id"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "code": {"type": "string", "enum": codes, "description": "Stable; what programs decide by."},
            "detail": {"type": "string", "description": "For people: what is wrong and what to do."},
            "request_id": {"type": "string"},
            "permission": {"type": "string", "description": "The permission that is missing."},
            "errors": {"type": "array", "items": {
                "type": "object", "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            }},
        },
    })
}

#[cfg(test)]
mod tests;

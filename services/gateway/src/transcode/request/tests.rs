use super::*;
use crate::transcode::json;
use crate::transcode::routes::{Match, Routes};

const ORG: &str = "org_01h2xcejqtf2nbrexx3vqjhp41";

fn attempt(verb: &str, path: &str, if_match: Option<&str>, body: &str) -> Result<DynamicMessage> {
    let routes = Routes::new();
    let path = path.replace("ORG", ORG);
    let (path, query) = path.split_once('?').unwrap_or((&path, ""));
    let Match::Found(route, variables) = routes.find(verb, path) else { panic!("no route {verb} {path}") };
    let body = (!body.is_empty()).then(|| json::parse(body.as_bytes()).unwrap());
    build(
        route,
        &variables,
        query,
        Headers { if_match, last_event_id: Some("7"), ..Headers::default() },
        body,
    )
}

fn problems(verb: &str, path: &str, body: &str) -> Vec<String> {
    let error = attempt(verb, path, None, body).unwrap_err();
    error.violations().iter().map(|v| format!("{} {}", v.pointer, v.detail)).collect()
}

fn text(message: &DynamicMessage) -> String {
    serde_json::to_string(message).unwrap()
}

#[test]
fn path_query_and_body_become_one_message() {
    let m = attempt("GET", "/v1/orgs/ORG/jobs?page_size=7&state=dead", None, "").unwrap();
    assert_eq!(text(&m), format!(r#"{{"orgId":"{ORG}","state":"dead","pageSize":7}}"#));
    let m = attempt(
        "POST",
        "/v1/orgs/ORG/agents",
        None,
        r#"{"handle":"a-b","config":{"labels":["x"],"limits":{"processes":3}}}"#,
    )
    .unwrap();
    assert!(text(&m).contains(r#""labels":["x"],"limits":{"processes":3}"#), "{}", text(&m));
    let m = attempt("GET", "/v1/orgs/ORG/audit-events?occurred_after=2026-01-01T00:00:00%2B01:00", None, "")
        .unwrap();
    assert!(text(&m).contains("2025-12-31T23:00:00Z"));
}

#[test]
fn a_patch_writes_what_its_body_names() {
    let mask = |body: &str| {
        let m = attempt("PATCH", "/v1/orgs/ORG", Some("\"v3\""), body).unwrap();
        assert!(text(&m).contains(r#""etag":"v3""#));
        let v: serde_json::Value = serde_json::from_str(&text(&m)).unwrap();
        v["updateMask"].as_str().unwrap().to_owned()
    };
    assert_eq!(mask(r#"{"name":"x"}"#), "name");
    // Not taken for none, nor for one that no ETag is.
    for wrong in ["", "\"v3\", \"v4\""] {
        assert!(attempt("PATCH", "/v1/orgs/ORG", Some(wrong), r#"{"name":"x"}"#).is_err(), "{wrong:?}");
    }
    assert_eq!(
        mask(r#"{"settings":{"timezone":"UTC","job_timeout_seconds":0}}"#),
        "settings.timezone,settings.jobTimeoutSeconds"
    );
    assert_eq!(mask(r#"{"name":"x","update_mask":"settings.timezone"}"#), "settings.timezone");
    assert_eq!(mask("{}"), "");
}

#[test]
fn everything_wrong_is_told_with_its_pointer() {
    assert_eq!(
        problems(
            "POST",
            "/v1/orgs/ORG/agents",
            r#"{"handle":7,"nme":"x","config":{"labels":"x","concurrency":99,"limits":[]},"org_id":"org_x"}"#
        ),
        [
            "/handle must be a string, not a number",
            "/nme is not a field of this request's body",
            "/config/labels must be an array, not a string",
            "/config/limits must be an object, not an array",
            "/org_id is not a field of this request's body",
            "/handle must be given",
            "/config/concurrency must be 0 to 16",
        ]
    );
    assert_eq!(
        problems("POST", "/v1/orgs", "[]"),
        ["/ must be an object, not an array", "/slug must be given", "/name must be given"]
            .map(|s| s.trim_start_matches("/ ").to_owned())
            .map(|s| if s.starts_with("must") { format!(" {s}") } else { s })
    );
    assert_eq!(
        problems("GET", "/v1/orgs?page_size=x&what=1&page_size=2", ""),
        ["/page_size must be a whole number", "/what is not a query parameter of this request"]
    );
    assert_eq!(problems("GET", "/v1/orgs?page_size=101", ""), ["/page_size must be 0 to 100"]);
    assert_eq!(problems("GET", "/v1/orgs?page_size=1&page_size=2", ""), ["/page_size must be given once"]);
    assert_eq!(
        problems("POST", "/v1/orgs?x=1", r#"{"slug":"abc","name":"n"}"#),
        ["/x is no query parameter: this takes a body"]
    );
    assert_eq!(
        problems("GET", "/v1/orgs/ORG/agents/agent_nope", ""),
        ["/agent_id must be an id of the form agent_ and 26 characters"]
    );
    assert_eq!(
        problems("POST", "/v1/orgs", r#"{"slug":"A b","name":""}"#),
        ["/slug must be of a-z, 0-9 and single dashes between them", "/name must be given"]
    );
    assert_eq!(
        problems("PATCH", "/v1/orgs/ORG", r#"{"etag":"v1"}"#),
        ["/etag is not a field of this request's body"]
    );
    assert_eq!(
        problems("PATCH", "/v1/orgs/ORG", r#"{"update_mask":"slug"}"#),
        ["/update_mask names slug, which is not a field of this request"]
    );
    assert_eq!(
        problems("POST", "/v1/orgs", r#"{"slug":"a\u0000b","name":"n"}"#),
        ["/slug must not hold a NUL character"]
    );
    assert_eq!(
        problems("POST", "/v1/orgs/ORG/keys", r#"{"name":"n","role":"owner","expires_at":"tomorrow"}"#),
        [
            "/expires_at must be a time such as 2026-11-27T18:00:00Z",
            "/role must be one of admin, member, viewer"
        ]
    );
}

#[test]
fn no_more_than_twenty_problems_are_told() {
    let body: Vec<String> = (0..1000).map(|i| format!(r#""f{i}":1"#)).collect();
    assert_eq!(problems("POST", "/v1/orgs", &format!("{{{}}}", body.join(","))).len(), rules::MOST);
}

#[test]
fn a_stream_goes_on_after_the_last_event_that_was_seen() {
    let path = "/v1/orgs/ORG/jobs/job_01h2xcejqtf2nbrexx3vqjhp41/logs?after=3";
    let m = attempt("GET", path, None, "").unwrap();
    assert_eq!(m.get_field_by_name(AFTER).unwrap().as_i64(), Some(7));
    // What is no stream does not look at it.
    assert!(attempt("GET", "/v1/orgs/ORG/jobs", None, "").is_ok());
}

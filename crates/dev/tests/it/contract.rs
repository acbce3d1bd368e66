//! What we ask GitHub, and what the fake answers, held against GitHub's own OpenAPI description: the fake never judges
//! itself.

use std::collections::{BTreeMap, BTreeSet};

use nitejar_dev::client::text;
use nitejar_dev::test_stack::TestStack;
use nitejar_testkit::github::Exchange;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::world::{World, finished};

/// GitHub's description; none when npm's package is not there.
fn description() -> Option<Value> {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../testkit/npm/node_modules/@octokit/openapi/generated/api.github.com.json"
    );
    match std::fs::read(file) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
        Err(_) => {
            assert!(std::env::var_os("CI").is_none(), "{file} is missing: cargo xtask test --only npm");
            None
        }
    }
}

/// OpenAPI 3.0's `nullable` as JSON Schema says it.
fn without_nullable(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(without_nullable).collect(),
        Value::Object(map) => {
            let mut new: Map<String, Value> = map
                .iter()
                .filter(|(k, _)| *k != "nullable")
                .map(|(k, v)| (k.clone(), without_nullable(v)))
                .collect();
            if map.get("nullable") != Some(&Value::Bool(true)) {
                return new.into();
            }
            if let Some(values) = new.get_mut("enum").and_then(Value::as_array_mut) {
                values.push(Value::Null);
            }
            match new.remove("type") {
                Some(kind) => {
                    new.insert("type".into(), json!([kind, "null"]));
                    new.into()
                }
                None => json!({ "anyOf": [new, { "type": "null" }] }),
            }
        }
        other => other.clone(),
    }
}

/// Everything that a schema refers to, by reference.
fn closure(doc: &Value, schema: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Array(list) => list.iter().for_each(|v| closure(doc, v, found)),
        Value::Object(map) => {
            if let Some(reference) = map.get("$ref").and_then(Value::as_str)
                && found.insert(reference.to_owned())
            {
                closure(doc, doc.pointer(&reference[1..]).unwrap(), found);
            }
            map.values().for_each(|v| closure(doc, v, found));
        }
        _ => {}
    }
}

fn resolve<'a>(doc: &'a Value, value: &'a Value) -> &'a Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(reference) => doc.pointer(&reference[1..]).unwrap(),
        None => value,
    }
}

/// What is wrong with a value by a schema of the description.
fn wrong(doc: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut references = BTreeSet::new();
    closure(doc, schema, &mut references);
    let mut root = json!({ "allOf": [without_nullable(schema)] });
    for reference in references {
        let path: Vec<&str> = reference[2..].split('/').collect();
        let [a, b, c] = path.as_slice() else { panic!("a reference of another form: {reference}") };
        root[*a][*b][*c] = without_nullable(doc.pointer(&reference[1..]).unwrap());
    }
    let validator = jsonschema::validator_for(&root).unwrap();
    validator.iter_errors(value).map(|e| format!("{} {e}", e.instance_path())).collect()
}

/// The description's path for a real one.
fn template<'a>(doc: &'a Value, path: &str) -> Option<(&'a str, &'a Value)> {
    let parts: Vec<&str> = path.split('/').collect();
    let fits = |t: &str| {
        let wanted: Vec<&str> = t.split('/').collect();
        wanted.len() == parts.len()
            && wanted.iter().zip(&parts).all(|(w, p)| w == p || (w.starts_with('{') && !p.is_empty()))
    };
    // The one with the fewest variables is meant.
    let paths = doc["paths"].as_object().unwrap().iter().filter(|(t, _)| fits(t));
    paths.min_by_key(|(t, _)| t.matches('{').count()).map(|(t, v)| (t.as_str(), v))
}

fn judge(doc: &Value, e: &Exchange, problems: &mut BTreeSet<String>) -> Option<String> {
    // OAuth is GitHub's web site, not its REST API.
    if e.path.starts_with("/login/") {
        return None;
    }
    let Some((path, item)) = template(doc, &e.path) else {
        problems.insert(format!("{} is no path of GitHub's", e.path));
        return None;
    };
    let name = format!("{} {path}", e.method);
    let operation = &item[e.method.to_lowercase()];
    if operation.is_null() {
        problems.insert(format!("{name} is no operation of GitHub's"));
        return None;
    }
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    for pair in e.query.split('&').filter(|p| !p.is_empty()) {
        let key = pair.split('=').next().unwrap_or_default();
        if !parameters.iter().any(|p| resolve(doc, p)["name"] == key && resolve(doc, p)["in"] == "query") {
            problems.insert(format!("{name} takes no query parameter {key}"));
        }
    }
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    if !body.is_null() {
        problems.extend(wrong(doc, body, &e.request).into_iter().map(|w| format!("{name} request: {w}")));
    }
    // 401 is GitHub's answer everywhere and not listed everywhere.
    let response = resolve(doc, &operation["responses"][e.status.to_string()]);
    if response.is_null() && e.status != 401 {
        problems.insert(format!("{name} never answers {}", e.status));
    }
    let schema = &response["content"]["application/json"]["schema"];
    if !schema.is_null() {
        let found = wrong(doc, schema, &e.response);
        problems.extend(found.into_iter().map(|w| format!("{name} {}: {w}", e.status)));
    }
    Some(format!("{name} {}", e.status))
}

#[tokio::test(flavor = "multi_thread")]
async fn our_requests_and_the_fakes_answers_are_githubs() {
    let Some(doc) = description() else { return };
    let stack = TestStack::start().await.unwrap();
    let github = stack.github_client().unwrap();
    let w = World::new(&stack).await;
    let integration =
        &w.owner.get(&format!("/v1/orgs/{}/integrations", w.org)).await.unwrap()["integrations"][0];
    let repository = integration["repositories"][0].as_str().unwrap().to_owned();
    let wish =
        json!({ "installation_id": integration["installation_id"], "repository": repository, "title": "t" });
    github.post("/_fake/issues", &wish).await.unwrap();
    let jobs = |v: &Value| v["jobs"].as_array().is_some_and(|l| l.len() == 2);
    let jobs = w.owner.until(&format!("/v1/orgs/{}/jobs", w.org), 30, "the job", jobs).await.unwrap();
    finished(&w.owner, &w.org, &text(&jobs["jobs"][0], "id")).await;
    let answered = |v: &Value| v["issues"][&repository]["1"].as_array().is_some_and(|l| !l.is_empty());
    github.until("/_fake/state", 30, "the reply", answered).await.unwrap();
    // One webhook of an unknown event kind that nobody could take, to be asked for again.
    github.post("/_fake/lose_next", &json!({})).await.unwrap();
    github.post("/_fake/issues", &wish).await.unwrap();
    let answered = |v: &Value| v["issues"][&repository]["2"].as_array().is_some_and(|l| !l.is_empty());
    github.until("/_fake/state", 40, "the reply to the lost one", answered).await.unwrap();
    // What strangers are told.
    for (method, path) in [
        (Method::GET, "/app/installations/1"),
        (Method::GET, "/user/installations"),
        (Method::GET, "/installation/repositories"),
        (Method::GET, "/repos/a/b/issues/1/comments"),
    ] {
        assert_eq!(github.with_key("nobody").call(method, path, None).await.unwrap().status, 401, "{path}");
    }
    let exchanges = stack.github.exchanges();
    let mut problems = BTreeSet::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    // The same kind of exchange is judged a few times, not a thousand.
    let mut times: BTreeMap<(String, u16), usize> = BTreeMap::new();
    for e in &exchanges {
        let shape = template(&doc, &e.path).map_or(e.path.clone(), |(t, _)| t.to_owned());
        let count = times.entry((format!("{} {shape}", e.method), e.status)).or_default();
        *count += 1;
        if *count <= 3
            && let Some(name) = judge(&doc, e, &mut problems)
        {
            *seen.entry(name).or_default() += 1;
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
    for wanted in [
        "GET /user/installations 200",
        "GET /app/installations/{installation_id} 200",
        "POST /app/installations/{installation_id}/access_tokens 201",
        "GET /installation/repositories 200",
        "GET /repos/{owner}/{repo}/issues/{issue_number}/comments 200",
        "POST /repos/{owner}/{repo}/issues/{issue_number}/comments 201",
        "GET /app/hook/deliveries 200",
        "POST /app/hook/deliveries/{delivery_id}/attempts 202",
    ] {
        assert!(seen.contains_key(wanted), "{wanted} was not seen in {seen:#?}");
    }
    stack.stop().await.unwrap();
}

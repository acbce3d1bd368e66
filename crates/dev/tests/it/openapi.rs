//! The API's own description, as the gateway serves it, before a validator that others wrote.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nitejar_dev::test_stack::TestStack;
use serde_json::{Value, json};

/// What the validator says of a document; none when it is not installed.
fn judge(document: &Value) -> Option<Value> {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../testkit/npm"));
    if !dir.join("node_modules/@seriousme/openapi-schema-validator").is_dir() {
        assert!(std::env::var_os("CI").is_none(), "the validator is missing: cargo xtask test --only npm");
        return None;
    }
    let mut node = Command::new("node")
        .arg("validate-openapi.mjs")
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    node.stdin.take().unwrap().write_all(&serde_json::to_vec(document).unwrap()).unwrap();
    let output = node.wait_with_output().unwrap();
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_served_document_is_valid_openapi_3_1() {
    let stack = TestStack::start().await.unwrap();
    let document = stack.operator().unwrap().with_key("").get("/openapi.json").await.unwrap();
    stack.stop().await.unwrap();
    let Some(verdict) = judge(&document) else { return };
    assert_eq!(verdict, json!({ "version": "3.1", "valid": true }));
    // The judge can say no.
    let mut wrong_type = document.clone();
    wrong_type["paths"]["/v1/orgs"]["get"]["responses"] = json!("none");
    let mut dangling = document;
    dangling["paths"]["/v1/orgs"]["get"]["responses"]["200"] =
        json!({ "$ref": "#/components/responses/Nowhere" });
    for broken in [wrong_type, dangling] {
        assert_eq!(judge(&broken).unwrap()["valid"], json!(false));
    }
}

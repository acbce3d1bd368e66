//! An independent tester (PyPI schemathesis) reads our document and tries what it finds there, with an owner's key: no
//! server error, no answer outside of the document, nothing accepted that the document forbids.

use std::path::PathBuf;
use std::process::Command;

use nitejar_dev::test_stack::{TestStack, target_dir};

use crate::world::World;

/// A program of the Python tools; none when they are not installed.
pub(crate) fn python_tool(name: &str) -> Option<PathBuf> {
    let root = target_dir().unwrap();
    let tool = root.ancestors().map(|dir| dir.join("python/bin").join(name)).find(|path| path.exists());
    assert!(
        tool.is_some() || std::env::var_os("CI").is_none(),
        "{name} is missing: cargo xtask test --only python"
    );
    tool
}

/// It wants everything that fits the document to be accepted. These refusals depend on what was said before, or when, which
/// no schema can say.
const BEYOND_SCHEMAS: &[&str] = &[
    "\"pointer\":\"/page_token\"",
    "\"code\":\"idempotency_key_reused\"",
    "\"code\":\"etag_mismatch\"",
    "\"code\":\"agents_limit\"",
    "\"code\":\"seats_limit\"",
    "\"code\":\"feature_not_in_plan\"",
    "must be a permission such as",
    "must be an e-mail address such as",
    "must be an address or a network",
    "must have a first row that names",
    "must be custom roles of this organization",
    "must be the account's own address",
    "must be a domain of your own",
    "must lie in the future",
    "must be a permission of the role",
    "must be the organization's slug",
    "must not be that of a fixed role",
    "must be an IANA time zone",
    "bytes of UTF-8",
];

/// What it found, but for those.
fn found(report: &str) -> Vec<String> {
    let parts = report.split("\n- ST").skip(1).map(|part| part.split("\n____").next().unwrap_or(part));
    // It takes the schema of a stream's whole text for that of one event; only OpenAPI 3.2 can describe events.
    let event = |part: &str| part.starts_with("108 SSE event violates schema");
    let refusal =
        |part: &str| part.starts_with("202 ") && BEYOND_SCHEMAS.iter().any(|known| part.contains(known));
    parts.filter(|part| !event(part) && !refusal(part)).map(|part| format!("ST{part}")).collect()
}

/// What it says of the operations that `chosen` leaves.
async fn report(program: PathBuf, stack: &TestStack, key: &str, chosen: &[&str]) -> String {
    let gateway = stack.places.gateway_url();
    let examples = std::env::var("NITEJAR_SCHEMATHESIS_EXAMPLES").unwrap_or_else(|_| "8".into());
    let mut command = Command::new(program);
    // One worker: its library's cache of source texts breaks with two (a KeyError now and then), and is no faster.
    command
        .args(["run", &format!("{gateway}/openapi.json"), "--url", &gateway, "--checks", "all", "--no-color"])
        .args(["--max-examples", &examples, "--workers", "1", "--phases", "examples,coverage,fuzzing"])
        .args(["--generation-deterministic", "--suppress-health-check", "all", "--warnings", "off"])
        .args(["--header", &format!("Authorization: Bearer {key}")])
        .args(chosen)
        .current_dir(stack.dir.path());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if let Ok(dir) = std::env::var("NITEJAR_SCHEMATHESIS_LOGS") {
        std::fs::write(PathBuf::from(dir).join(format!("{}.log", chosen.concat())), &text).unwrap();
    }
    assert!(text.contains("Test cases:"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // Findings that are told, or none: not that it could not look.
    assert!(output.status.success() || text.contains("\n- ST"), "{text}");
    assert!(!text.contains("= ERRORS ="), "{text}");
    text
}

/// It uses what it finds in answers, its own key's id and its organization's slug among them: what ends those comes last.
const ENDS_ITS_KEY: &str = "Users.RevokeMyKey";
const ENDS_ITS_ORG: &str = "Orgs.DeleteOrg";
const ENDS_ITS_PERSON: &str = "Users.DeleteMe";

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_no_answer_outside_of_the_document() {
    let Some(program) = python_tool("schemathesis") else { return };
    let stack = TestStack::start().await.unwrap();
    let world = World::new(&stack).await;
    let key = world.owner.key();
    let last = [ENDS_ITS_ORG, ENDS_ITS_PERSON, ENDS_ITS_KEY];
    let others: Vec<&str> = last.iter().flat_map(|id| ["--exclude-operation-id", id]).collect();
    let mut text = report(program.clone(), &stack, key, &others).await;
    assert_eq!(world.owner.get("/v1/me").await.unwrap()["name"], "owner", "the key stayed good");
    for last in last {
        text += &report(program.clone(), &stack, key, &["--include-operation-id", last]).await;
    }
    let found = found(&text);
    assert!(found.is_empty(), "{}", found.join("\n\n"));
    stack.stop().await.unwrap();
}

#[test]
fn what_it_finds_is_seen() {
    let report = "FAILURES\n____ GET /a ____\n1. Test\n\n- ST101 Server error\n\n[500]\n____ GET /b ____\n1.\n\n- ST202 Schema-valid \
                  request rejected\n`{\"errors\":[{\"pointer\":\"/page_token\"}]}`\n- ST202 x\n`{\"pointer\":\"/name\"}`\n";
    assert_eq!(found(report).len(), 2);
}

use serde_json::json;

use super::*;

fn issue(action: &str) -> Value {
    json!({
        "action": action,
        "installation": {"id": 7},
        "sender": {"login": "ada", "type": "User"},
        "repository": {"id": 9, "full_name": "octo/repo"},
        "issue": {"id": 100, "number": 12, "title": "T", "body": "B", "html_url": "https://x/12", "updated_at": "2026-01-01T00:00:00Z",
            "labels": [{"name": "bug"}]},
    })
}

fn work(event: &str, payload: &Value) -> Work {
    match read(event, payload.to_string().as_bytes()).unwrap() {
        (Some(7), Event::Work(work)) => *work,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_opened_issue() {
    let w = work("issues", &issue("opened"));
    assert_eq!(
        (w.event.as_str(), w.session_key.as_str(), w.opened),
        ("issues.opened", "octo/repo#issue:12", true)
    );
    assert_eq!((w.repository_id, w.number, w.labels), (9, 12, vec!["bug".to_owned()]));
    let again = work("issues", &issue("opened"));
    assert_eq!(w.dedupe_key, again.dedupe_key);
}

#[test]
fn each_reopening_is_a_happening_of_its_own() {
    let mut later = issue("reopened");
    later["issue"]["updated_at"] = "2026-01-02T00:00:00Z".into();
    assert_ne!(work("issues", &issue("reopened")).dedupe_key, work("issues", &later).dedupe_key);
}

#[test]
fn a_comment_counts_by_its_own_text() {
    let mut payload = issue("created");
    payload["comment"] =
        json!({"id": 5, "body": "hey @bot", "html_url": "https://x/c", "user": {"type": "User"}});
    let w = work("issue_comment", &payload);
    assert_eq!((w.body.as_str(), w.dedupe_key.as_str(), w.opened), ("hey @bot", "github:comment:5", false));
}

#[test]
fn bots_and_other_events_make_no_work() {
    let mut payload = issue("opened");
    payload["sender"]["type"] = "Bot".into();
    for (event, payload) in [("issues", payload), ("issues", issue("closed")), ("push", json!({}))] {
        let (_, meaning) = read(event, payload.to_string().as_bytes()).unwrap();
        assert!(matches!(meaning, Event::Ignored(_)), "{meaning:?}");
    }
}

#[test]
fn a_check_run_belongs_to_a_pull_request_of_its_repository() {
    let run = |repo: u64| {
        json!({
            "action": "completed", "installation": {"id": 7}, "sender": {"type": "Bot"},
            "repository": {"id": 9, "full_name": "octo/repo"},
            "check_run": {"id": 1, "name": "ci", "conclusion": "failure",
                "pull_requests": [{"number": 3, "base": {"repo": {"id": repo}}}]},
        })
    };
    assert_eq!(work("check_run", &run(9)).number, 3);
    let (_, other) = read("check_run", run(8).to_string().as_bytes()).unwrap();
    assert!(matches!(other, Event::Ignored(_)));
}

#[test]
fn what_can_not_be_read_is_malformed() {
    for (event, body) in [
        ("issues", "{"),
        ("issues", "[]"),
        ("issues", "7"),
        ("issues", r#"{"action":"opened"}"#),
        ("issue_comment", r#"{"action":"created","issue":{"number":1}}"#),
    ] {
        assert!(read(event, body.as_bytes()).is_err(), "{event} {body}");
    }
    let deep = "[".repeat(100_000);
    assert!(read("issues", deep.as_bytes()).is_err());
}

#[test]
fn everything_that_is_kept_is_bounded() {
    let mut payload = issue("opened");
    payload["issue"]["title"] = "t".repeat(10_000).into();
    payload["issue"]["body"] = format!("nul \0 {}", "b".repeat(1_000_000)).into();
    let w = work("issues", &payload);
    assert!(w.title.len() == 256 && w.body.chars().count() == 65_536 && !w.body.contains('\0'));
}

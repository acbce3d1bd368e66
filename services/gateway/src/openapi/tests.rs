use super::*;

#[test]
fn the_checked_in_document_is_what_the_proto_files_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let now = format!("{}\n", serde_json::to_string_pretty(&document()).unwrap());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == now,
        "docs/openapi.json is old: run `cargo xtask openapi`, look at the difference, commit it"
    );
}

#[test]
fn every_operation_says_who_may_and_what_may_go_wrong() {
    let document = document();
    let mut operations = 0;
    let mut ids = std::collections::HashSet::new();
    for (path, verbs) in document["paths"].as_object().unwrap() {
        for (verb, operation) in verbs.as_object().unwrap() {
            operations += 1;
            assert!(ids.insert(operation["operationId"].clone()), "{verb} {path}");
            assert!(operation["summary"].as_str().is_some_and(|s| !s.is_empty()), "{verb} {path}");
            for status in ["200", "400", "401", "404", "500", "503"] {
                assert!(operation["responses"][status].is_object(), "{verb} {path} {status}");
            }
            let tenant = operation["x-scope"] == "tenant";
            assert_eq!(tenant, operation["x-permission"].is_string(), "{verb} {path}");
        }
    }
    assert_eq!(operations, Routes::new().iter().count());
    // Two messages of one name would silently share a schema.
    let mut names = std::collections::HashMap::new();
    for message in nitejar_proto::POOL
        .all_messages()
        .filter(|m| m.full_name().starts_with("nitejar.") && !m.is_map_entry())
    {
        let other = names.insert(message.name().to_owned(), message.full_name().to_owned());
        assert_eq!(other, None, "{} is named twice", message.name());
    }
}

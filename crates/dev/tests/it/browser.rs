//! A real browser at the pages.

use std::path::Path;
use std::process::Command;

use nitejar_dev::test_stack::TestStack;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_on_two_devices_signs_out_everywhere_and_reads_the_reference() {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../testkit/npm"));
    let chromium = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    let there = chromium.iter().any(|path| Path::new(path).exists());
    if !there || !dir.join("node_modules/playwright-core").is_dir() {
        assert!(std::env::var_os("CI").is_none(), "chromium or playwright-core is missing: cargo xtask test");
        return;
    }
    let stack = TestStack::start().await.unwrap();
    let (gateway, mailbox) = (stack.places.gateway_url(), stack.mailbox.url());
    let pictures = std::env::var("NITEJAR_PICTURES").unwrap_or_default();
    let walk = tokio::task::spawn_blocking(move || {
        let email = "grace@example.com";
        Command::new("node")
            .arg("browser.mjs")
            .args([&gateway, &mailbox, email, &pictures])
            .current_dir(dir)
            .output()
    });
    let output = walk.await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{errors}"));
    assert_eq!(seen["problems"], json!([]));
    assert_eq!((&seen["sessions"], &seen["current"]), (&json!(2), &json!(1)));
    assert_eq!(seen["token"], "", "the link's secret leaves the address bar");
    assert_eq!(seen["httpOnly"], true);
    let document = stack.operator().unwrap().get("/openapi.json").await.unwrap();
    let operations =
        document["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len());
    assert_eq!(seen["operations"], operations.sum::<usize>());
    assert_eq!(seen["examples"], seen["operations"], "each operation shows an example");
    assert_eq!(seen["errors"], document["x-errors"].as_array().unwrap().len());
    stack.stop().await.unwrap();
}

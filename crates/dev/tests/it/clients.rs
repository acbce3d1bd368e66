//! Clients that others' generators make of our document, without hand edits, tell the whole story.

use std::path::Path;
use std::process::Command;

use nitejar_dev::test_stack::TestStack;

use crate::schemathesis::python_tool;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
const NPM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../testkit/npm");
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../testkit/python");

/// Runs a command that must succeed; answers what it printed.
async fn must(mut command: Command) -> String {
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", said(&output.stdout), said(&output.stderr));
    said(&output.stdout)
}

fn passed(printed: &str) -> u32 {
    printed.trim().rsplit_once("passed ").and_then(|(_, steps)| steps.parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typescript_client_tells_the_story() {
    let modules = Path::new(NPM).join("node_modules");
    if !modules.join("openapi-typescript").is_dir() {
        assert!(
            std::env::var_os("CI").is_none(),
            "openapi-typescript is missing: cargo xtask test --only npm"
        );
        return;
    }
    let stack = TestStack::start().await.unwrap();
    let dir = stack.dir.path().join("typescript");
    std::fs::create_dir_all(&dir).unwrap();
    std::os::unix::fs::symlink(modules.canonicalize().unwrap(), dir.join("node_modules")).unwrap();
    std::fs::copy(Path::new(NPM).join("story.ts"), dir.join("story.ts")).unwrap();
    std::fs::write(dir.join("package.json"), r#"{ "type": "module" }"#).unwrap();
    let tool = |name: &str| {
        let mut command = Command::new(modules.join(".bin").join(name));
        command.current_dir(&dir);
        command
    };
    let mut generate = tool("openapi-typescript");
    generate.args([DOCUMENT, "--output", "api.d.ts"]);
    must(generate).await;
    let mut compile = tool("tsc");
    compile.args(["--strict", "--noUncheckedIndexedAccess", "--target", "es2022", "--module", "esnext"]);
    compile.args([
        "--moduleResolution",
        "bundler",
        "--lib",
        "es2022,dom",
        "--types",
        "node",
        "--skipLibCheck",
        "story.ts",
    ]);
    must(compile).await;
    let target = stack.target();
    let mut story = Command::new("node");
    story.args(["story.js", &target.gateway, &target.github, &target.operator_key]).current_dir(&dir);
    assert!(passed(&must(story).await) >= 14);
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_tells_the_story() {
    let Some(generator) = python_tool("openapi-python-client") else { return };
    let bin = generator.parent().unwrap();
    let stack = TestStack::start().await.unwrap();
    let dir = stack.dir.path().join("python");
    std::fs::create_dir_all(&dir).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let mut generate = Command::new(&generator);
    generate.args(["generate", "--path", DOCUMENT, "--meta", "none", "--fail-on-warning", "--output-path"]);
    generate.arg(dir.join("nitejar_client")).env("PATH", path).current_dir(&dir);
    must(generate).await;
    let mut compile = Command::new(bin.join("python"));
    compile.args(["-m", "compileall", "-q", "nitejar_client"]).current_dir(&dir);
    must(compile).await;
    let target = stack.target();
    let mut story = Command::new(bin.join("python"));
    story.arg(Path::new(PYTHON).join("story.py")).env("PYTHONPATH", &dir).current_dir(&dir);
    story.args([&target.gateway, &target.github, &target.operator_key]);
    assert!(passed(&must(story).await) >= 14);
    stack.stop().await.unwrap();
}

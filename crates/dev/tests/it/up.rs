//! `up` as a person uses it: it says ready, the demo passes, Ctrl-C leaves nothing behind, the data stay.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use nitejar_dev::client::{Client, text};
use nitejar_dev::demo::{self, Target};
use nitejar_dev::test_stack::{organization, person};
use nitejar_runner::procs;
use serde_json::Value;

struct Up {
    child: std::process::Child,
    running: Value,
}

fn up(data: &std::path::Path, split: bool) -> Up {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nitejar-dev"));
    command.args(["up", "--listen", "127.0.0.1:0", "--data"]).arg(data).current_dir(data);
    if split {
        command.arg("--split");
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    for line in lines {
        let line = line.unwrap();
        let last = line.starts_with("Ctrl-C");
        seen.push(line);
        if last {
            break;
        }
    }
    assert!(seen.iter().any(|l| l == "ready"), "{seen:?}");
    let running = std::fs::read_to_string(data.join("running.json")).unwrap();
    Up { child, running: serde_json::from_str(&running).unwrap() }
}

/// A test that fails leaves nothing behind either.
impl Drop for Up {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            procs::signal(i32::try_from(self.child.id()).unwrap(), rustix::process::Signal::INT);
            let _ = self.child.wait();
        }
    }
}

impl Up {
    fn operator(&self) -> Client {
        Client::new(&text(&self.running, "gateway"), &text(&self.running, "operator_key")).unwrap()
    }

    /// The whole story, also against data of an earlier run.
    async fn demo(&self) {
        let part = |name| text(&self.running, name);
        let target =
            Target { gateway: part("gateway"), github: part("github"), operator_key: part("operator_key") };
        demo::story(&target).await.unwrap();
    }

    fn interrupt(mut self, data: &std::path::Path) {
        let pid = i32::try_from(self.child.id()).unwrap();
        let below = procs::tree(&procs::all(), [pid]).len();
        assert!(below > 2, "PostgreSQL runs below it");
        procs::signal(pid, rustix::process::Signal::INT);
        assert!(self.child.wait().unwrap().success());
        let mark = data.display().to_string();
        let left: Vec<_> = procs::all()
            .into_keys()
            .map(procs::args)
            .filter(|a| a.iter().any(|a| a.contains(&mark)))
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        let postgres = i32::try_from(self.running["postgres"].as_i64().unwrap()).unwrap();
        assert!(procs::one(postgres).is_none_or(|p| p.state == 'Z'), "PostgreSQL was left behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn up_runs_stops_without_a_trace_and_keeps_the_data() {
    // Below /var/tmp: PostgreSQL's own user must be able to enter it.
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let first = up(dir.path(), false);
    let (owner, _) = person(&first.operator(), "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let agent = serde_json::json!({ "handle": "worker", "config": { "command": "sleep 75.5" } });
    let agent = owner.post(&format!("/v1/orgs/{org}/agents"), &agent).await.unwrap();
    let item = serde_json::json!({ "agent_id": text(&agent, "id"), "title": "t" });
    let item = owner.post(&format!("/v1/orgs/{org}/work-items"), &item).await.unwrap();
    let job = format!("/v1/orgs/{org}/jobs/{}", item["job_ids"][0].as_str().unwrap());
    owner.until(&job, 30, "its start", |v| v["state"] == "running").await.unwrap();
    first.demo().await;
    first.interrupt(dir.path());

    // The second run, as five processes, has the same data and the same keys.
    let second = up(dir.path(), true);
    let owner = owner.at(&text(&second.running, "gateway"));
    assert_eq!(text(&owner.get(&format!("/v1/orgs/{org}")).await.unwrap(), "id"), org);
    let path = format!("/v1/orgs/{org}/agents/{}", text(&agent, "id"));
    owner.patch(&path, &serde_json::json!({ "config": { "command": "true" } })).await.unwrap();
    // The job that ran when the lights went out is run again.
    owner.until(&job, 60, "its end", |v| v["state"] == "completed").await.unwrap();
    second.demo().await;
    second.interrupt(dir.path());
}

//! What a job may do, and what becomes of it.

use nitejar_dev::client::{Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use nitejar_runner::procs;
use serde_json::{Value, json};

use crate::world::finished;

struct Bench {
    stack: TestStack,
    owner: Client,
    org: String,
    agent: String,
}

impl Bench {
    async fn new() -> Self {
        let stack = TestStack::start().await.unwrap();
        let operator = stack.operator().unwrap();
        let (owner, _) = person(&operator, "owner").await.unwrap();
        let org = organization(&owner).await.unwrap();
        let config = json!({ "command": "true", "limits": { "memory_mib": 64, "processes": 12, "disk_mib": 20, "cpu_seconds": 1 }, "timeout_seconds": 30 });
        let agent = owner
            .post(&format!("/v1/orgs/{org}/agents"), &json!({ "handle": "worker", "config": config }))
            .await
            .unwrap();
        Self { stack, owner, agent: text(&agent, "id"), org }
    }

    async fn start(&self, command: &str) -> String {
        let path = format!("/v1/orgs/{}/agents/{}", self.org, self.agent);
        self.owner.patch(&path, &json!({ "config": { "command": command } })).await.unwrap();
        let item = json!({ "agent_id": self.agent, "title": "t" });
        let item = self.owner.post(&format!("/v1/orgs/{}/work-items", self.org), &item).await.unwrap();
        item["job_ids"][0].as_str().unwrap().to_owned()
    }

    async fn run(&self, command: &str) -> Value {
        let job = self.start(command).await;
        finished(&self.owner, &self.org, &job).await
    }

    async fn until_running(&self, job: &str) {
        self.owner
            .until(&format!("/v1/orgs/{}/jobs/{job}", self.org), 30, "its start", |v| v["state"] == "running")
            .await
            .unwrap();
    }
}

/// Processes with that mark in their command line.
fn alive(mark: &str) -> usize {
    procs::all().keys().filter(|pid| procs::args(**pid).iter().any(|a| a == mark)).count()
}

/// An agent without a limit of its own has the organization's.
#[tokio::test(flavor = "multi_thread")]
async fn the_organizations_setting_limits_a_job() {
    let b = Bench::new().await;
    let at = |rest: &str| format!("/v1/orgs/{}{rest}", b.org);
    let config = json!({ "config": { "timeout_seconds": 0, "limits": { "memory_mib": 64 } } });
    b.owner.patch(&at(&format!("/agents/{}", b.agent)), &config).await.unwrap();
    b.owner.patch(&at(""), &json!({ "settings": { "job_timeout_seconds": 1 } })).await.unwrap();
    let job = b.run("sleep 600").await;
    assert_eq!((text(&job, "state"), text(&job, "reason")), ("failed".into(), "timed_out".into()), "{job}");
    for (zone, status) in [
        ("Europe/Berlin", 200),
        ("UTC", 200),
        ("Europe/Nowhere", 400),
        ("FOO5", 400),
        ("localtime", 400),
        ("posix/Europe/Berlin", 400),
    ] {
        let wish = json!({ "settings": { "timezone": zone } });
        let answer = b.owner.call(reqwest::Method::PATCH, &at(""), Some(&wish)).await.unwrap();
        assert_eq!(answer.status, status, "{zone}: {}", answer.body);
    }
    b.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_takes_too_much_is_killed_with_all_its_children() {
    let b = Bench::new().await;
    for (command, reason) in [
        ("x=$(head -c 200000000 /dev/zero | tr '\\0' x); sleep 20", "memory_limit"),
        ("i=0; while [ $i -lt 30 ]; do sleep 71.5 & i=$((i+1)); done; wait", "process_limit"),
        ("while :; do :; done", "cpu_limit"),
        ("head -c 60000000 /dev/zero > big; sleep 20", "disk_limit"),
        ("exit 3", "exit_code"),
        ("kill -9 $$", "signal"),
    ] {
        let job = b.run(command).await;
        assert_eq!(
            (text(&job, "state").as_str(), text(&job, "reason").as_str()),
            ("failed", reason),
            "{command}: {job}"
        );
        if reason == "disk_limit" {
            b.run("rm -f big").await;
        }
    }
    assert_eq!(alive("71.5"), 0);
    // A pipe in the reply's place, to which nobody writes, holds nobody.
    let job = b.run("rm -f $NITEJAR_RESULT; mkfifo $NITEJAR_RESULT").await;
    assert_eq!((text(&job, "state").as_str(), text(&job, "output").as_str()), ("completed", ""), "{job}");
    // A daemon that left its session, and whose parents are gone, dies with its job.
    let job = b.run("setsid sh -c 'sleep 72.5 & sleep 72.5' >/dev/null 2>&1 & sleep 0.5").await;
    assert_eq!(text(&job, "state"), "completed", "{job}");
    assert_eq!(alive("72.5"), 0);
    b.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_is_cancelled_and_can_be_retried() {
    let b = Bench::new().await;
    let job = b.start("sleep 73.5").await;
    b.until_running(&job).await;
    let path = format!("/v1/orgs/{}/jobs/{job}", b.org);
    assert_eq!(b.owner.post(&format!("{path}:cancel"), &json!({})).await.unwrap()["state"], "cancelled");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while alive("73.5") > 0 {
        assert!(std::time::Instant::now() < until, "the cancelled job still runs");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let again =
        b.owner.call(reqwest::Method::POST, &format!("{path}:cancel"), Some(&json!({}))).await.unwrap();
    assert_eq!(again.status, 200, "cancelling twice is fine");
    let config = json!({ "config": { "command": "echo again" } });
    b.owner.patch(&format!("/v1/orgs/{}/agents/{}", b.org, b.agent), &config).await.unwrap();
    b.owner.post(&format!("{path}:retry"), &json!({})).await.unwrap();
    assert_eq!(finished(&b.owner, &b.org, &job).await["state"], "completed");
    let once = |v: &Value| v["meters"][0]["used"] == 1 && v["meters"][0]["reserved"] == 0;
    b.owner.until(&format!("/v1/orgs/{}/usage", b.org), 20, "one count", once).await.unwrap();
    b.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_dies_costs_an_attempt_and_not_the_job() {
    let b = Bench::new().await;
    let job = b.start("if [ $NITEJAR_ATTEMPT = 1 ]; then sleep 74.5; fi; echo survived").await;
    b.until_running(&job).await;
    let runner = procs::all().into_keys().find(|pid| {
        let args = procs::args(*pid);
        args.iter().any(|a| a.contains("nitejar-runner"))
            && args.iter().any(|a| a.contains(&b.stack.places.sprites.display().to_string()))
    });
    procs::signal(runner.unwrap(), rustix::process::Signal::KILL);
    let done = finished(&b.owner, &b.org, &job).await;
    assert_eq!((&done["state"], &done["attempts"]), (&json!("completed"), &json!(2)), "{done}");
    assert_eq!(alive("74.5"), 0, "what the dead runner left is killed");
    b.stack.stop().await.unwrap();
    assert_eq!(
        procs::all().keys().filter(|pid| procs::args(**pid).iter().any(|a| a.contains(&b.org))).count(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_sprite_stops_and_wakes_for_the_next_job() {
    let mut tweaks = nitejar_dev::test_stack::test_tweaks();
    tweaks.idle_seconds = 1;
    let stack = TestStack::start_with(tweaks).await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let config = json!({ "command": "sleep 3; echo x" });
    let agent = owner
        .post(&format!("/v1/orgs/{org}/agents"), &json!({ "handle": "worker", "config": config }))
        .await
        .unwrap();
    let agent = text(&agent, "id");
    for _ in 0..2 {
        let item = owner
            .post(&format!("/v1/orgs/{org}/work-items"), &json!({ "agent_id": agent, "title": "t" }))
            .await
            .unwrap();
        // A silent job of three seconds outlives an idle time of one: idle is about leases, not about silence.
        let job = finished(&owner, &org, item["job_ids"][0].as_str().unwrap()).await;
        assert_eq!((&job["state"], &job["attempts"]), (&json!("completed"), &json!(1)), "{job}");
        owner
            .until(&format!("/v1/orgs/{org}/agents/{agent}"), 20, "its rest", |v| {
                v["sprite"]["state"] == "stopped"
            })
            .await
            .unwrap();
    }
    stack.stop().await.unwrap();
}

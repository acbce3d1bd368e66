//! The Sprite protocol over HTTP (`proto/nitejar/sprites/v1/runner.proto`).

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// One leased job.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Assignment {
    /// `job_…`
    pub job_id: String,
    /// The lease.
    pub lease_epoch: i64,
    /// Its length in seconds.
    pub lease_seconds: u64,
    /// From 1.
    pub attempt: u32,
    /// The shell command.
    pub command: String,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// Names in `env` to mask.
    pub masked: Vec<String>,
    /// The work item.
    pub work_item_json: String,
    /// Wall time in seconds.
    pub timeout_seconds: u64,
    /// CPU time in seconds.
    pub cpu_seconds: u64,
    /// MiB.
    pub memory_mib: u64,
    /// At a time.
    pub processes: u64,
    /// MiB.
    pub disk_mib: u64,
    /// W3C.
    pub traceparent: String,
}

impl Default for Assignment {
    fn default() -> Self {
        Self {
            job_id: String::new(),
            lease_epoch: 0,
            lease_seconds: 30,
            attempt: 1,
            command: String::new(),
            env: BTreeMap::new(),
            masked: Vec::new(),
            work_item_json: "{}".into(),
            timeout_seconds: 3600,
            cpu_seconds: 1800,
            memory_mib: 1024,
            processes: 128,
            disk_mib: 1024,
            traceparent: String::new(),
        }
    }
}

/// The answer to a claim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Claimed {
    /// The jobs.
    pub assignments: Vec<Assignment>,
    /// Exit.
    pub stop: bool,
}

/// One line of output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// `stdout`, `stderr` or `system`.
    pub stream: String,
    /// The text.
    pub text: String,
}

/// How a job ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Completion {
    /// The lease.
    pub lease_epoch: i64,
    /// `succeeded`, …
    pub outcome: String,
    /// A stable word.
    pub reason: String,
    /// When the command ended by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The reply.
    pub output: String,
}

/// Why a call did not do what it should.
#[derive(Debug)]
pub enum Trouble {
    /// Try again.
    Again(String),
    /// The lease is somebody else's now.
    LeaseLost,
    /// The token is not valid any more.
    Unauthorized,
    /// The request itself is refused; repeating it would not help.
    Refused(String),
}

/// The gateway, as one Sprite sees it.
#[derive(Debug)]
pub struct Api {
    http: reqwest::Client,
    base: String,
    token: String,
    contact: Mutex<Instant>,
}

impl Api {
    /// `base`: `http://host:port`.
    pub fn new(base: &str, token: &str) -> reqwest::Result<Self> {
        // Fails only when a provider is there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(3))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("nitejar-runner/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
            token: token.to_owned(),
            contact: Mutex::new(Instant::now()),
        })
    }

    /// How long ago the gateway last answered.
    pub fn silence(&self) -> Duration {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    async fn post<T: for<'de> Deserialize<'de>>(
        &self,
        path: &str,
        trace: &str,
        timeout: Duration,
        body: &impl Serialize,
    ) -> Result<T, Trouble> {
        let mut request = self
            .http
            .post(format!("{}{path}", self.base))
            .bearer_auth(&self.token)
            .timeout(timeout)
            .json(body);
        if !trace.is_empty() {
            request = request.header("traceparent", trace);
        }
        let response = request.send().await.map_err(|e| Trouble::Again(e.to_string()))?;
        let status = response.status();
        // A proxy's 502 to 504 is no sign that the gateway is there.
        if !matches!(status.as_u16(), 502..=504) {
            *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        if status.is_success() {
            return response.json().await.map_err(|e| Trouble::Again(e.to_string()));
        }
        let problem: serde_json::Value = response.json().await.unwrap_or_default();
        let code = problem["code"].as_str().unwrap_or_default();
        Err(match status.as_u16() {
            401 | 403 => Trouble::Unauthorized,
            404 => Trouble::LeaseLost,
            409 if code == "stale_lease" => Trouble::LeaseLost,
            400 | 413 | 415 => Trouble::Refused(problem.to_string()),
            _ => Trouble::Again(format!("{status} {code}")),
        })
    }

    /// Waits for work.
    pub async fn claim(&self, wait_seconds: u32, max_jobs: u32) -> Result<Claimed, Trouble> {
        let body = serde_json::json!({
            "wait_seconds": wait_seconds, "max_jobs": max_jobs, "version": env!("CARGO_PKG_VERSION"),
        });
        let timeout = Duration::from_secs(u64::from(wait_seconds) + 15);
        self.post("/v1/runner/jobs:claim", "", timeout, &body).await
    }

    /// Keeps a lease alive; true: kill the job.
    pub async fn heartbeat(&self, a: &Assignment) -> Result<bool, Trouble> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            cancel: bool,
        }
        let path = format!("/v1/runner/jobs/{}:heartbeat", a.job_id);
        let body = serde_json::json!({ "lease_epoch": a.lease_epoch });
        let answer: Answer = self.post(&path, &a.traceparent, Duration::from_secs(10), &body).await?;
        Ok(answer.cancel)
    }

    /// Appends output; answers which line comes next.
    pub async fn append(&self, a: &Assignment, first_line: i64, lines: &[Line]) -> Result<i64, Trouble> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            next_line: i64,
        }
        let path = format!("/v1/runner/jobs/{}/logs", a.job_id);
        let body =
            serde_json::json!({ "lease_epoch": a.lease_epoch, "first_line": first_line, "lines": lines });
        let answer: Answer = self.post(&path, &a.traceparent, Duration::from_secs(20), &body).await?;
        Ok(answer.next_line)
    }

    /// Ends a job.
    pub async fn complete(&self, a: &Assignment, completion: &Completion) -> Result<(), Trouble> {
        let path = format!("/v1/runner/jobs/{}:complete", a.job_id);
        let _: serde_json::Value =
            self.post(&path, &a.traceparent, Duration::from_secs(20), completion).await?;
        Ok(())
    }
}

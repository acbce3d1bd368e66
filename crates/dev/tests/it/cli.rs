//! The command line tells the story: as a person at a terminal would, and as a program would.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use nitejar_dev::test_stack::{TestStack, connect_github, target_dir};
use serde_json::{Value, json};

/// A person's shell.
struct Shell {
    binary: PathBuf,
    url: String,
    config: PathBuf,
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Shell {
    async fn run(&self, args: &[&str], input: &str) -> Said {
        let mut command = Command::new(&self.binary);
        command.args(args).env_clear().env("NITEJAR_CONFIG", &self.config).env("NITEJAR_URL", &self.url);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let input = input.to_owned();
        let output = tokio::task::spawn_blocking(move || {
            use std::io::Write as _;
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        });
        let output = output.await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// What must succeed, as JSON.
    async fn json(&self, args: &[&str]) -> Value {
        let said = self.run(args, "").await;
        assert_eq!(said.code, 0, "{args:?}: {}", said.err);
        serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{args:?}: {}", said.out))
    }

    async fn code(&self, args: &[&str]) -> i32 {
        self.run(args, "").await.code
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_walks_the_story() {
    use std::os::unix::fs::PermissionsExt as _;
    let stack = TestStack::start().await.unwrap();
    let binary = target_dir().unwrap().join("nitejar");
    assert!(binary.exists(), "nitejar is not built: cargo build -p nitejar-cli");
    let shell =
        Shell { binary, url: stack.places.gateway_url(), config: stack.dir.path().join("cli/config.json") };
    assert_eq!(shell.code(&["me"]).await, 3, "nobody is signed in");

    // By link: the command waits for what the person copies from the mail.
    let mut login = Command::new(&shell.binary);
    login.args(["login", "--email", "ada@example.com"]).env_clear();
    login.env("NITEJAR_CONFIG", &shell.config).env("NITEJAR_URL", &shell.url);
    let mut login =
        login.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mails = async {
        loop {
            if let Some(mail) = stack.mailbox.of("ada@example.com").pop() {
                return mail;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let mail = tokio::time::timeout(std::time::Duration::from_secs(20), mails).await.unwrap();
    let link = mail.text.lines().find(|line| line.contains("#token=")).unwrap().to_owned();
    std::io::Write::write_all(&mut login.stdin.take().unwrap(), format!("{link}\n").as_bytes()).unwrap();
    let done = tokio::task::spawn_blocking(move || login.wait_with_output().unwrap()).await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let mode = std::fs::metadata(&shell.config).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(shell.json(&["me"]).await["email"], "ada@example.com");

    let org = shell.json(&["orgs", "create", "cli-acme", "--name", "Acme"]).await;
    assert_eq!(shell.code(&["orgs", "create", "cli-acme"]).await, 6, "the slug is taken");
    shell.json(&["orgs", "use", "cli-acme"]).await;
    assert_eq!(shell.code(&["--org", "nobodys", "members", "list"]).await, 5);
    assert_eq!(shell.code(&["--org", "org_01jd8z4v6pe2rb8m3q5x7t9w1k", "members", "list"]).await, 5);
    shell.json(&["members", "invite", "bob@example.com"]).await;
    assert_eq!(shell.run(&["secrets", "set", "TOKEN"], "s3cr3t\n").await.code, 0);
    let made = shell
        .json(&[
            "agents",
            "create",
            "fixer",
            "--command",
            "echo token is $TOKEN; echo done > $NITEJAR_RESULT",
            "--secret",
            "TOKEN",
            "--label",
            "fix-me",
        ])
        .await;
    assert_eq!(
        shell.code(&["agents", "create", "second", "--command", "true"]).await,
        4,
        "one agent on the free plan"
    );

    // A person sees a table, a program JSON.
    let table = shell.run(&["agents", "list", "--table"], "").await.out;
    assert!(table.starts_with("HANDLE") && table.contains("fixer"), "{table}");
    assert_eq!(shell.json(&["agents", "list"]).await[0]["id"], made["id"]);

    let ran = shell.run(&["run", "fixer", "Say hello", "--follow", "--table"], "").await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "token is ***\ndone\n"), "{}", ran.err);
    let ran = shell.json(&["run", "@fixer", "Again", "--follow"]).await;
    assert_eq!(ran["state"], "completed");
    let job = ran["id"].as_str().unwrap();
    let logs = shell.run(&["jobs", "logs", job], "").await.out;
    let first: Value = serde_json::from_str(logs.lines().next().unwrap()).unwrap();
    assert_eq!(first["text"], "token is ***");
    assert_eq!(shell.code(&["jobs", "cancel", job]).await, 6);
    assert_eq!(shell.code(&["jobs", "get", "job_01jd8z4v6te3ww5r7v91by305q"]).await, 5);
    assert_eq!(shell.json(&["jobs", "list", "--limit", "1"]).await.as_array().unwrap().len(), 1);

    let started = shell.json(&["connect-github"]).await;
    assert!(started["url"].as_str().unwrap().contains("state="));
    let owner = stack.operator().unwrap().with_key(&key_of(&shell));
    let github = stack.github_client().unwrap();
    let org = org["id"].as_str().unwrap();
    let number = connect_github(&owner, &github, org, &["acme/site".to_owned()]).await.unwrap();
    let wish = json!({ "installation_id": number, "repository": "acme/site", "title": "Broken", "labels": ["fix-me"] });
    github.post("/_fake/issues", &wish).await.unwrap();
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while shell.json(&["jobs", "list", "--state", "completed"]).await.as_array().unwrap().len() < 3 {
        assert!(tokio::time::Instant::now() < until, "the issue's job did not end");
    }
    assert!(shell.run(&["usage", "--table"], "").await.out.contains("jobs"));
    let events = shell.json(&["audit", "list", "--action", "agent.created"]).await;
    assert_eq!(events[0]["target_id"], made["id"]);
    assert_eq!(shell.code(&["audit", "verify"]).await, 0);
    shell.json(&["agents", "delete", "fixer"]).await;

    // An organization's life, people and roles.
    shell.json(&["orgs", "rename", "cli-acme-works"]).await;
    assert_eq!(
        shell.json(&["--org", "cli-acme", "orgs", "get"]).await["slug"],
        "cli-acme-works",
        "by its old slug"
    );
    let folder = shell.config.with_extension("export");
    let exported = shell.json(&["orgs", "export", folder.to_str().unwrap()]).await;
    assert_eq!(exported["state"], "ready");
    let members = std::fs::read_to_string(folder.join("tenancy/members.jsonl")).unwrap();
    assert!(members.lines().count() == 1 && members.contains("ada@example.com"), "{members}");
    assert_eq!(shell.code(&["orgs", "export", folder.to_str().unwrap()]).await, 1, "the folder is there");
    let table = shell.run(&["members", "import", "-", "--table"], "email\nguest@example.com\nnobody\n").await;
    assert!(table.out.contains("invited") && table.out.contains("invalid"), "{}{}", table.out, table.err);
    let me = shell.json(&["me"]).await;
    let why = shell.run(&["explain", me["id"].as_str().unwrap(), "Jobs.CancelJob", "--table"], "").await;
    assert!(why.out.starts_with("They may. It is given by the role owner."), "{}", why.out);
    assert_eq!(shell.code(&["roles", "create", "Auditors", "audit.read"]).await, 4, "not on the free plan");
    assert!(shell.json(&["roles", "list"]).await.as_array().unwrap().len() == 4);
    let domain = shell.run(&["domains", "add", "Cli.Example.com", "--table"], "").await;
    assert!(domain.out.contains("_nitejar-challenge.cli.example.com"), "{}{}", domain.out, domain.err);
    assert_eq!(shell.code(&["domains", "verify", "cli.example.com"]).await, 6, "no such record");
    let set = shell.json(&["domains", "set", "cli.example.com", "suggested", "--role", "member"]).await;
    assert_eq!((set["joining"].as_str(), set["role"].as_str()), (Some("suggested"), Some("member")));
    assert_eq!(shell.json(&["domains", "list"]).await.as_array().unwrap().len(), 1);
    assert_eq!(shell.code(&["domains", "remove", "cli.example.com"]).await, 0);
    assert_eq!(shell.code(&["domains", "remove", "cli.example.com"]).await, 5);
    let grants = format!("/v1/operator/orgs/{org}/support-grants");
    let wish = serde_json::json!({ "reason": "Ticket 4711: it does not start", "duration_minutes": 5 });
    let grant = stack.operator().unwrap().post(&grants, &wish).await.unwrap();
    let grant = grant["id"].as_str().unwrap();
    assert_eq!(shell.code(&["support", "revoke", grant]).await, 6, "nothing is open yet");
    assert_eq!(shell.json(&["support", "approve", grant]).await["state"], "approved");
    assert_eq!(shell.json(&["support", "list"]).await[0]["operator"], "sandbox");
    assert_eq!(shell.json(&["support", "revoke", grant]).await["state"], "revoked");
    assert_eq!(shell.code(&["orgs", "delete", "cli-acme"]).await, 6, "not its slug");
    assert_eq!(shell.json(&["orgs", "delete", "cli-acme-works"]).await["state"], "deleting");
    assert_eq!(shell.json(&["orgs", "restore"]).await["state"], "active");
    assert_eq!(shell.code(&["receipt", "get", org]).await, 5);

    // The key ends with signing out, here and there.
    let key = key_of(&shell);
    shell.json(&["logout"]).await;
    assert_eq!(shell.code(&["me"]).await, 3);
    let gone = stack.operator().unwrap().with_key(&key);
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(2);
    while gone.call(reqwest::Method::GET, "/v1/me", None).await.unwrap().status != 401 {
        assert!(tokio::time::Instant::now() < until);
    }
    for shape in ["bash", "zsh", "fish"] {
        assert!(shell.run(&["completions", shape], "").await.out.contains("nitejar"));
    }
    assert_eq!(shell.code(&["no-such-command"]).await, 2);
    stack.stop().await.unwrap();
}

fn key_of(shell: &Shell) -> String {
    let config: Value = serde_json::from_slice(&std::fs::read(&shell.config).unwrap()).unwrap();
    config["key"].as_str().unwrap().to_owned()
}

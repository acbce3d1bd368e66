//! Keys that stand in public, reported as GitHub does. The reports are signed by openssl, an independent peer.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nitejar_dev::client::{Answer, Client, text};
use nitejar_dev::test_stack::{TestStack, organization, person};
use reqwest::Method;
use serde_json::{Value, json};

use crate::people::mail;
use crate::world::join;

/// GitHub's key, in a file.
struct Signer<'a> {
    dir: &'a Path,
    id: String,
}

fn openssl(dir: &Path, args: &[&str]) {
    let output = Command::new("openssl").args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "openssl {args:?}: {output:?}");
}

impl<'a> Signer<'a> {
    async fn new(stack: &'a TestStack, name: &str) -> Self {
        let dir = stack.dir.path();
        let (key, public) = (format!("{name}.pem"), format!("{name}.pub"));
        openssl(dir, &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key]);
        openssl(dir, &["ec", "-in", &key, "-pubout", "-out", &public]);
        let pem = std::fs::read_to_string(dir.join(public)).unwrap();
        let published = json!({ "key_identifier": name, "key": pem, "is_current": true });
        stack.github_client().unwrap().post("/_fake/scanning_keys", &published).await.unwrap();
        Self { dir, id: name.to_owned() }
    }

    fn sign(&self, body: &str) -> String {
        std::fs::write(self.dir.join("body"), body).unwrap();
        let key = format!("{}.pem", self.id);
        openssl(self.dir, &["dgst", "-sha256", "-sign", &key, "-out", "signature.der", "body"]);
        STANDARD.encode(std::fs::read(self.dir.join("signature.der")).unwrap())
    }

    async fn report(&self, client: &Client, body: &str, signature: &str) -> Answer {
        let request = client
            .with_key("")
            .request(Method::POST, "/webhooks/github/secret-scanning")
            .header("github-public-key-identifier", &self.id)
            .header("github-public-key-signature", signature)
            .header("content-type", "application/json")
            .body(body.to_owned());
        Client::send(request).await.unwrap()
    }
}

fn token(secret: &str) -> Value {
    json!({ "token": secret, "type": "nitejar_api_key", "url": "https://github.com/octo/repo/blob/main/.env", "source": "content" })
}

/// A key of an organization's is found. For the coverage of audit actions.
pub(crate) async fn leak(stack: &TestStack, owner: &Client, org: &str) {
    let key = owner
        .post(&format!("/v1/orgs/{org}/keys"), &json!({ "name": "leaks", "role": "viewer" }))
        .await
        .unwrap();
    let signer = Signer::new(stack, "coverage").await;
    let body = json!([token(&text(&key, "secret"))]).to_string();
    let answer = signer.report(owner, &body, &signer.sign(&body)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_public_is_revoked_and_its_owners_are_told() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let (member, member_id) = join(&operator, &owner, &org, "member").await;
    let path = format!("/v1/orgs/{org}");
    let key = owner.post(&format!("{path}/keys"), &json!({ "name": "CI", "role": "admin" })).await.unwrap();
    let secret = text(&key, "secret");
    let program = operator.with_key(&secret);
    assert_eq!(program.call(Method::GET, &path, None).await.unwrap().status, 200);
    let unknown = nitejar_common::key::generate(nitejar_common::key::KeyKind::Api).expose().to_owned();
    let body =
        json!([token(&secret), token(member.key()), token(&unknown), token("ghp_not_ours")]).to_string();
    let signer = Signer::new(&stack, "first").await;
    let signature = signer.sign(&body);

    // Whatever is not GitHub's word changes nothing.
    let other = Signer { dir: signer.dir, id: "unknown".into() };
    let changed = body.replace("main", "evil");
    for (who, said, signature) in [
        (&signer, changed.as_str(), signature.as_str()),
        (&signer, &body, "bm8gc2lnbmF0dXJl"),
        (&signer, &body, "%"),
        (&other, &body, &signature),
        (&signer, &body, ""),
    ] {
        let answer = who.report(&operator, said, signature).await;
        assert_eq!(
            (answer.status, text(&answer.body, "code")),
            (401, "invalid_signature".into()),
            "{}",
            answer.body
        );
    }
    assert_eq!(program.call(Method::GET, &path, None).await.unwrap().status, 200);

    let answer = signer.report(&operator, &body, &signature).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let labels: Vec<&str> =
        answer.body.as_array().unwrap().iter().map(|l| l["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["true_positive", "true_positive", "false_positive", "false_positive"]);
    assert_eq!(answer.body[0]["token_hash"], STANDARD.encode(nitejar_common::key::sha256(&secret)));
    assert!(!answer.body.to_string().contains(&secret));
    for client in [&program, &member] {
        let refused = async || client.call(Method::GET, &path, None).await.unwrap().status;
        for _ in 0..80 {
            if refused().await == 401 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        assert_eq!(refused().await, 401);
    }
    let address = text(&owner.get("/v1/me").await.unwrap(), "email");
    let told = mail(&stack, &address, 1).await;
    assert!(told.subject.contains("found in public") && told.text.contains("octo/repo"), "{told:?}");
    assert!(!told.text.contains(&secret));
    // Reported again it is the same, once.
    let again = signer.report(&operator, &body, &signature).await;
    assert_eq!(again.body, answer.body);
    let events = |v: &Value| v["events"].as_array().map_or(0, Vec::len);
    let log = format!("{path}/audit-events?action=key.leaked");
    let found = owner.until(&log, 10, "the event", |v| events(v) > 0).await.unwrap();
    assert_eq!((events(&found), &found["events"][0]["target_id"]), (1, &key["key"]["id"]));
    let mine = |v: &Value| {
        v["events"].as_array().is_some_and(|l| l.iter().any(|e| e["action"] == "user_key.leaked"))
    };
    operator.until("/v1/operator/audit-events?page_size=500", 10, "the person's", mine).await.unwrap();
    assert!(member_id.starts_with("user_"));

    // GitHub changes its key: one that is not known here is asked for, but not once for every name somebody invents.
    let asked = || stack.github.exchanges().iter().filter(|e| e.path.ends_with("/secret_scanning")).count();
    assert_eq!(asked(), 1, "unknown names within the minute are not asked about");
    for broken in ["{}", "[{\"token\": 1}]", "no json"] {
        let answer = signer.report(&operator, broken, &signer.sign(broken)).await;
        assert_eq!((answer.status, text(&answer.body, "code")), (400, "malformed_body".into()), "{broken}");
    }
    stack.stop().await.unwrap();
}

/// What GitHub does not say of one token keeps no other from being revoked; what it says of one is shown on one line.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_taken_as_far_as_it_goes() {
    let stack = TestStack::start().await.unwrap();
    let operator = stack.operator().unwrap();
    let (owner, _) = person(&operator, "owner").await.unwrap();
    let org = organization(&owner).await.unwrap();
    let keys = format!("/v1/orgs/{org}/keys");
    let mut secrets = Vec::new();
    for name in ["silent", "bare", "loud"] {
        let key = owner.post(&keys, &json!({ "name": name, "role": "viewer" })).await.unwrap();
        secrets.push(text(&key, "secret"));
    }
    let loud = format!("https://github.com/octo\r\nBcc: eve@example.com\u{2028}/{}END", "x".repeat(3000));
    let body = json!([
        { "token": secrets[0], "type": "nitejar_api_key", "url": null, "source": null },
        { "token": secrets[1] },
        { "token": secrets[2], "type": "nitejar_api_key", "url": loud, "source": "content" },
    ])
    .to_string();
    let signer = Signer::new(&stack, "gaps").await;
    let answer = signer.report(&operator, &body, &signer.sign(&body)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let labels = answer.body.as_array().unwrap();
    assert!(labels.len() == 3 && labels.iter().all(|l| l["label"] == "true_positive"), "{}", answer.body);
    let address = text(&owner.get("/v1/me").await.unwrap(), "email");
    mail(&stack, &address, 3).await;
    let mails = stack.mailbox.of(&address);
    let told = &mails.iter().find(|m| m.text.contains("\"loud\"")).unwrap().text;
    assert!(told.contains("https://github.com/octoBcc: eve@example.com/xxx"), "{told}");
    assert!(!told.contains("END") && told.chars().count() < 2_500, "{told}");
    stack.stop().await.unwrap();
}

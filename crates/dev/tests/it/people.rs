//! People: browsers with cookies, and their mail.

use std::time::Duration;

use nitejar_dev::client::{Answer, Client, text};
use nitejar_dev::test_stack::TestStack;
use nitejar_testkit::mailbox::Received;
use reqwest::Method;
use serde_json::{Value, json};

/// A browser: cookies and nothing else.
#[derive(Clone)]
pub(crate) struct Browser {
    pub(crate) client: Client,
    pub(crate) cookies: std::collections::BTreeMap<String, String>,
    /// What it calls itself.
    pub(crate) agent: &'static str,
}

impl Browser {
    pub(crate) fn new(stack: &TestStack) -> Self {
        Self {
            client: stack.operator().unwrap().with_key(""),
            cookies: Default::default(),
            agent: "Test/1.0",
        }
    }

    pub(crate) fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> reqwest::RequestBuilder {
        let cookies: Vec<String> = self.cookies.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let mut request = self.client.request(method, path).header("user-agent", self.agent);
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
        match body {
            Some(body) => request.header("sec-fetch-site", "same-origin").json(body),
            None => request,
        }
    }

    pub(crate) async fn call(&mut self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let answer = Client::send(self.request(method, path, body)).await.unwrap();
        for line in answer.headers.get_all("set-cookie") {
            let line = line.to_str().unwrap();
            assert!(
                line.ends_with("; HttpOnly; Secure; SameSite=Lax") && line.contains("; Path=/;"),
                "{line}"
            );
            let (name, rest) = line.split_once('=').unwrap();
            assert!(name.starts_with("__Host-"), "{name}");
            match rest.split(';').next().unwrap() {
                "" => self.cookies.remove(name),
                value => self.cookies.insert(name.to_owned(), value.to_owned()),
            };
        }
        answer
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(&body)).await
    }

    pub(crate) fn session(&self) -> String {
        self.cookies.get("__Host-nj_session").cloned().unwrap_or_default()
    }
}

/// The newest link's secret, once there are so many mails.
pub(crate) async fn token(stack: &TestStack, email: &str, mails: usize) -> String {
    let mail = mail(stack, email, mails).await;
    link_secret(&mail.text)
}

pub(crate) async fn mail(stack: &TestStack, email: &str, mails: usize) -> Received {
    for _ in 0..1200 {
        let received = stack.mailbox.of(email);
        if received.len() >= mails {
            return received.last().unwrap().clone();
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{mails} mails for {email} did not come");
}

/// Signs a browser in.
pub(crate) async fn sign_in(stack: &TestStack, browser: &mut Browser, email: &str) {
    let token = ask_link(stack, browser, email).await;
    let answer = browser.post("/v1/sign-in:finish", json!({ "token": token })).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Asks for a sign-in link and waits for its secret. Other mails may arrive meanwhile.
pub(crate) async fn ask_link(stack: &TestStack, browser: &mut Browser, email: &str) -> String {
    let links = || {
        let mails = stack.mailbox.of(email).into_iter();
        mails.filter(|m| m.subject.starts_with("Sign in")).map(|m| link_secret(&m.text)).collect::<Vec<_>>()
    };
    let before = links().len();
    assert_eq!(browser.post("/v1/sign-in", json!({ "email": email })).await.status, 200);
    for _ in 0..1200 {
        if let Some(secret) = links().get(before) {
            return secret.clone();
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("no link for {email} came");
}

fn link_secret(text: &str) -> String {
    text.split("#token=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
}

/// Everything that a person does with sessions and keys of their own.
pub(crate) async fn come_and_go(stack: &TestStack) {
    let mut browser = Browser::new(stack);
    sign_in(stack, &mut browser, "comes-and-goes@example.com").await;
    let key = browser.post("/v1/me/keys", json!({ "name": "k" })).await;
    assert_eq!(key.status, 200, "{}", key.body);
    let key = format!("/v1/me/keys/{}", text(&key.body["key"], "id"));
    assert_eq!(browser.call(Method::DELETE, &key, None).await.status, 200);
    assert_eq!(browser.post("/v1/me:signOut", json!({})).await.status, 200);
}

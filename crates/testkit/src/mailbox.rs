//! A mail server that delivers nothing: it keeps what it is given and shows it on a page. Speaks the part of SMTP
//! (RFC 5321) that mail clients use, with faults to inject.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use axum::extract::{Query, State};
use axum::response::Html;
use axum::routing::{get, post};
use axum::{Json, Router};
use mailparse::MailHeaderMap as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// The largest mail, and how many are kept.
const LARGEST: usize = 1 << 20;
const MOST: usize = 500;

/// One mail as it came.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Received {
    /// Who was named to the server.
    pub to: Vec<String>,
    /// Of the sender.
    pub from: String,
    /// Its subject.
    pub subject: String,
    /// Its `Message-ID`.
    pub message_id: String,
    /// Its text.
    pub text: String,
}

/// What to do wrong next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Say that it can't be taken now (451).
    Later,
    /// Say that there is no such mailbox (550).
    Refuse,
    /// Take the mail and close without an answer.
    TakeAndHangUp,
}

#[derive(Debug, Default)]
struct Kept {
    mails: Vec<Received>,
    faults: Vec<Fault>,
}

/// A running mailbox. Dropping it stops it.
#[derive(Debug)]
pub struct Mailbox {
    /// Where its page is.
    web: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    stop: CancellationToken,
}

impl Mailbox {
    /// Starts it: SMTP on one address, its page on the other.
    pub async fn start(smtp: SocketAddr, web: SocketAddr) -> Result<Self> {
        let (smtp, web) = (TcpListener::bind(smtp).await?, TcpListener::bind(web).await?);
        let mailbox = Self { web: web.local_addr()?, kept: Arc::default(), stop: CancellationToken::new() };
        let (kept, stop) = (Arc::clone(&mailbox.kept), mailbox.stop.clone());
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = smtp.accept() => accepted,
                };
                let Ok((socket, _)) = accepted else { continue };
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    // A client that hangs up in the middle is none of our business.
                    let _ = converse(socket, &kept).await;
                });
            }
        });
        let router = Router::new()
            .route("/", get(page))
            .route("/messages", get(messages))
            .route("/faults", post(fault))
            .with_state(Arc::clone(&mailbox.kept));
        let stop = mailbox.stop.clone();
        tokio::spawn(async move {
            let _ = axum::serve(web, router).with_graceful_shutdown(stop.cancelled_owned()).await;
        });
        Ok(mailbox)
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.web)
    }

    /// What came for an address, the oldest first.
    pub fn of(&self, to: &str) -> Vec<Received> {
        lock(&self.kept).mails.iter().filter(|m| m.to.iter().any(|t| t == to)).cloned().collect()
    }

    /// What to do wrong next.
    pub fn fault(&self, fault: Fault) {
        lock(&self.kept).faults.push(fault);
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn converse(socket: TcpStream, kept: &Mutex<Kept>) -> Result<()> {
    let (read, mut write) = socket.into_split();
    let mut read = BufReader::new(read).take(LARGEST as u64);
    let mut to: Vec<String> = Vec::new();
    write.write_all(b"220 mailbox ready\r\n").await?;
    let mut line = String::new();
    loop {
        line.clear();
        read.set_limit(LARGEST as u64);
        if read.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let upper = line.trim_end().to_ascii_uppercase();
        let answer: &str = match upper.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" => "250-mailbox\r\n250-8BITMIME\r\n250 SMTPUTF8",
            "HELO" | "NOOP" => "250 mailbox",
            "RSET" | "MAIL" => {
                to.clear();
                "250 ok"
            }
            "RCPT" => {
                let address = line.split(['<', '>']).nth(1).unwrap_or_default();
                to.push(address.to_owned());
                "250 ok"
            }
            "DATA" if to.is_empty() => "503 for whom?",
            "DATA" => {
                write.write_all(b"354 go on, end with a dot\r\n").await?;
                let mail = parse(&data(&mut read).await?, &to)?;
                let fault = {
                    let mut kept = lock(kept);
                    let fault = if kept.faults.is_empty() { None } else { Some(kept.faults.remove(0)) };
                    if !matches!(fault, Some(Fault::Later | Fault::Refuse)) {
                        kept.mails.push(mail);
                        let over = kept.mails.len().saturating_sub(MOST);
                        kept.mails.drain(..over);
                    }
                    fault
                };
                match fault {
                    None => "250 taken",
                    Some(Fault::Later) => "451 not now",
                    Some(Fault::Refuse) => "550 no such mailbox",
                    Some(Fault::TakeAndHangUp) => return Ok(()),
                }
            }
            "QUIT" => {
                write.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => "502 not understood",
        };
        write.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
}

/// Up to the line with one dot; other leading dots were doubled.
async fn data(read: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut line = Vec::new();
        anyhow::ensure!(read.read_until(b'\n', &mut line).await? > 0, "ended in the middle of a mail");
        if line == b".\r\n" {
            return Ok(all);
        }
        all.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
}

fn parse(mail: &[u8], to: &[String]) -> Result<Received> {
    let parsed = mailparse::parse_mail(mail)?;
    let header = |name: &str| parsed.headers.get_first_value(name).unwrap_or_default();
    Ok(Received {
        to: to.to_vec(),
        from: header("From"),
        subject: header("Subject"),
        message_id: header("Message-ID"),
        text: parsed.get_body().context("the body can't be read")?,
    })
}

#[derive(Deserialize)]
struct Wish {
    #[serde(default)]
    to: String,
}

async fn messages(State(kept): State<Arc<Mutex<Kept>>>, Query(wish): Query<Wish>) -> Json<Vec<Received>> {
    let kept = lock(&kept);
    let mails = kept.mails.iter().filter(|m| wish.to.is_empty() || m.to.contains(&wish.to));
    Json(mails.cloned().collect())
}

async fn fault(State(kept): State<Arc<Mutex<Kept>>>, Json(fault): Json<Fault>) {
    lock(&kept).faults.push(fault);
}

async fn page(State(kept): State<Arc<Mutex<Kept>>>) -> Html<String> {
    let mails: Vec<Received> = lock(&kept).mails.iter().rev().cloned().collect();
    let mut html = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Mailbox</title><style>body{font:16px/1.5 system-ui;max-width:50rem;\
         margin:2rem auto;padding:0 1rem}article{border:1px solid #ccc;border-radius:6px;padding:.8rem 1rem;margin:1rem 0}\
         pre{white-space:pre-wrap;font:inherit}</style><h1>Mailbox</h1><p>What this sandbox sent, the newest first.</p>",
    );
    if mails.is_empty() {
        html.push_str("<p>Nothing yet.");
    }
    for m in mails {
        let text: String = m.text.split_inclusive(char::is_whitespace).map(linked).collect();
        html.push_str(&format!(
            "<article><b>{}</b><br>to {}<pre>{text}</pre></article>",
            escaped(&m.subject),
            escaped(&m.to.join(", "))
        ));
    }
    Html(html)
}

fn linked(word: &str) -> String {
    let plain = escaped(word);
    if word.starts_with("http://") || word.starts_with("https://") {
        let (link, space) = plain.split_at(plain.trim_end().len());
        format!("<a href=\"{link}\">{link}</a>{space}")
    } else {
        plain
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

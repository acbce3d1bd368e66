//! `fakes`: the fake GitHub and the mailbox alone, for a stack that runs elsewhere.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nitejar_testkit::github::{FakeGithub, FakeGithubConfig};
use nitejar_testkit::mailbox::Mailbox;

use crate::settings::{APP_ID, APP_SLUG, CLIENT_ID};

/// Flags of `fakes`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where the fake GitHub listens.
    #[arg(long, default_value = "127.0.0.1:4000", value_name = "ADDR")]
    pub github: SocketAddr,
    /// Where the mailbox takes mail.
    #[arg(long, default_value = "127.0.0.1:1025", value_name = "ADDR")]
    pub smtp: SocketAddr,
    /// Where its page is.
    #[arg(long, default_value = "127.0.0.1:8025", value_name = "ADDR")]
    pub mailbox: SocketAddr,
    /// Where webhooks go, and browsers after an install.
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub gateway: String,
    /// The App's OAuth client secret.
    #[arg(long, env = "GITHUB_CLIENT_SECRET", hide_env_values = true)]
    pub client_secret: String,
    /// Signs webhooks.
    #[arg(long, env = "GITHUB_WEBHOOK_SECRET", hide_env_values = true)]
    pub webhook_secret: String,
    /// The App's public key: PEM, in base64.
    #[arg(long, env = "GITHUB_PUBLIC_KEY", hide_env_values = true)]
    pub public_key: String,
}

/// Runs until a signal.
pub async fn run(args: Args) -> Result<()> {
    let public_key = STANDARD.decode(args.public_key.trim()).context("the public key is no base64")?;
    let github = FakeGithub::start(FakeGithubConfig {
        addr: args.github,
        app_id: APP_ID,
        app_slug: APP_SLUG.into(),
        client_id: CLIENT_ID.into(),
        client_secret: args.client_secret,
        public_key: String::from_utf8(public_key)?,
        webhook_secret: args.webhook_secret,
        webhook_url: format!("{}/webhooks/github", args.gateway),
        setup_url: format!("{}/v1/github/setup", args.gateway),
        file: None,
    })
    .await?;
    let mailbox = Mailbox::start(args.smtp, args.mailbox).await?;
    let signals = nitejar_runtime::lifecycle::Shutdown::new();
    signals.on_signals()?;
    signals.soft.cancelled().await;
    drop((github, mailbox));
    Ok(())
}

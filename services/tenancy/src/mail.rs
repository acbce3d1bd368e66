//! Mail: written with the change that causes it, sealed because it holds links that sign people in, sent by the outbox.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use lettre::message::{Mailbox, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use nitejar_common::RequestCtx;
use nitejar_common::error::{Error, Result};
use nitejar_db::outbox::{Deliver, Delivery, Failure, OutboxMessage};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::Service;
use crate::config::MailConfig;
use crate::domain::envelope::MasterKeys;
use crate::store::mails;
use crate::store::support::GrantRow;

/// The outbox topic.
pub(crate) const TOPIC: &str = "mail";

/// One mail.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Mail {
    to: String,
    subject: String,
    text: String,
}

impl Mail {
    /// The link that signs somebody in.
    pub(crate) fn sign_in(to: &str, link: &str) -> Self {
        let text = format!(
            "Open this link in the browser in which you asked for it:\n\n{link}\n\n\
             It works once, within 15 minutes. If you did not ask for it, do nothing: without your browser nobody can use it.\n"
        );
        Self { to: to.to_owned(), subject: "Sign in to Nitejar".into(), text }
    }

    /// A browser that was not seen before has signed in.
    pub(crate) fn new_device(to: &str, agent: &str, address: &str, at: DateTime<Utc>) -> Self {
        // What a browser calls itself is its own word.
        let agent: String = agent.chars().filter(|c| !c.is_control()).take(200).collect();
        let when = at.format("%e %B %Y, %H:%M UTC");
        let text = format!(
            "A browser that was not seen before signed in to your account.\n\n    {agent}\n    from {address}, {when}\n\n\
             If that was you, there is nothing to do. If not, sign out everywhere on your account's page, and look at who reads \
             your mail: the link was sent there.\n"
        );
        Self { to: to.to_owned(), subject: "A new device signed in".into(), text }
    }

    /// Somebody is asked in.
    pub(crate) fn invitation(to: &str, by: &str, org: &str, role: &str, link: &str) -> Self {
        let text = format!(
            "{by} invites you to join {org} on Nitejar, as {role}.\n\nTo accept or decline, sign in with this address and open:\n\n\
             {link}\n\nIt works for 7 days. If you do not know who that is, do nothing.\n"
        );
        Self { to: to.to_owned(), subject: format!("Join {org} on Nitejar"), text }
    }

    /// A member is offered ownership.
    pub(crate) fn ownership_offered(to: &str, by: &str, org: &str, until: DateTime<Utc>) -> Self {
        let day = until.format("%e %B %Y, %H:%M UTC");
        let text = format!(
            "{by} offers you the ownership of {org} on Nitejar. If you accept, you can do everything there, its bills and its\n\
             deletion included, and {by} becomes an admin.\n\nTo accept, sign in and run\n\n    nitejar orgs accept-ownership\n\n\
             before {day}. If you do not want it, do nothing.\n"
        );
        Self { to: to.to_owned(), subject: format!("Ownership of {org} is offered to you"), text }
    }

    /// A key ends soon.
    pub(crate) fn key_ends(to: &str, name: &str, id: &str, at: Option<DateTime<Utc>>) -> Self {
        let day = at.map(|at| at.format("%e %B %Y, %H:%M UTC").to_string()).unwrap_or_default();
        let text = format!(
            "The API key {name:?} ({id}) stops working on {day}.\n\nTo go on without a gap, rotate it before then: the old one works \
             beside the new one for a day.\n"
        );
        Self { to: to.to_owned(), subject: format!("An API key ends on {day}"), text }
    }

    /// A key stands in public.
    pub(crate) fn key_leaked(to: &str, name: &str, id: &str, url: &str) -> Self {
        let text = format!(
            "GitHub found the API key {name:?} ({id}) in public, at\n\n    {url}\n\nIt has been revoked, and opens nothing any more. \
             Look into the audit log for what was done with it, make a new one, and remove it there: whoever saw it has it.\n"
        );
        Self { to: to.to_owned(), subject: "An API key was found in public and revoked".into(), text }
    }

    /// A domain's record is gone.
    pub(crate) fn domain_record_missing(
        to: &str,
        org: &str,
        domain: &str,
        record: &str,
        value: &str,
    ) -> Self {
        let text = format!(
            "The TXT record that shows {domain} to belong to {org} is not there. Until it is back nobody joins by the domain; who is\n\
             a member stays one.\n\nIf the domain is still yours, put the record back:\n\n    {record}\n    {value}\n\n\
             It is looked at whenever somebody joins; nitejar domains verify {domain} looks at once. If the domain is somebody\n\
             else's now, remove it: nitejar domains remove {domain}\n"
        );
        Self { to: to.to_owned(), subject: format!("The record of {domain} is missing"), text }
    }

    /// A domain is another organization's.
    pub(crate) fn domain_lapsed(to: &str, org: &str, domain: &str) -> Self {
        let text = format!(
            "The domain {domain} is no longer verified for {org}: another organization has shown by a record in its DNS that it is\n\
             theirs, and the record that showed it to be yours is gone. Nobody joins {org} by it any more; who is a member stays one.\n\n\
             If it is yours, look who changes its DNS, then make the new record that nitejar domains list shows, and run\n\n\
             \x20   nitejar domains verify {domain}\n"
        );
        Self { to: to.to_owned(), subject: format!("{domain} is no longer verified"), text }
    }

    /// The last mail to somebody.
    pub(crate) fn account_deleted(to: &str) -> Self {
        let text = "Your account at Nitejar has been deleted, with its sessions and keys. Organizations that you left keep what you \
                    did there, without your name.\n\nIf that was not you, write to support at once.\n";
        Self { to: to.to_owned(), subject: "Your account has been deleted".into(), text: text.into() }
    }

    /// An owner hears that all will be deleted.
    pub(crate) fn deletion_scheduled(to: &str, slug: &str, at: DateTime<Utc>, public_url: &str) -> Self {
        let day = at.format("%e %B %Y, %H:%M UTC");
        let text = format!(
            "The organization {slug} will be deleted on {day}. Its agents do no more work; everything can still be read.\n\n\
             To keep it, an owner restores it before then:\n\n    nitejar orgs restore   (or POST {public_url}/v1/orgs/…:restore)\n\n\
             Afterwards nothing of it can be brought back. Every owner gets a signed receipt of what was deleted.\n"
        );
        Self { to: to.to_owned(), subject: format!("{slug} will be deleted on {day}"), text }
    }

    /// An operator wants to read.
    pub(crate) fn support_requested(to: &str, org: &str, grant: &GrantRow) -> Self {
        let GrantRow { id, operator, reason, minutes, .. } = grant;
        let until = grant.expires_at.format("%e %B %Y, %H:%M UTC");
        let otherwise = match grant.break_glass {
            false => "Without your approval nothing can be read.",
            true => {
                "In an emergency another operator may approve it, too; you would be told at once, and could end it."
            }
        };
        let text = format!(
            "{operator} of Nitejar's support asks to read the data of {org} for {minutes} minutes, as a viewer: nothing can be changed,\n\
             and no secret's value is ever shown. The reason:\n\n    {}\n\nAn owner approves or denies it until {until}:\n\n\
             \x20   nitejar support approve {id}   (or deny)\n\n{otherwise} Whatever is read stands in your audit log.\n",
            reason.replace('\n', "\n    ")
        );
        Self { to: to.to_owned(), subject: format!("Support asks to read the data of {org}"), text }
    }

    /// Operators let one of them read without asking the owners.
    pub(crate) fn glass_broken(to: &str, org: &str, grant: &GrantRow) -> Self {
        let GrantRow { id, operator, reason, decided_by, .. } = grant;
        let until = grant.expires_at.format("%e %B %Y, %H:%M UTC");
        let text = format!(
            "{operator} of Nitejar's support can read the data of {org} until {until}, as a viewer. {decided_by}, another operator,\n\
             approved it in an emergency. The reason:\n\n    {}\n\nAn owner ends it at any time:\n\n\
             \x20   nitejar support revoke {id}\n\nWhatever is read stands in your audit log.\n",
            reason.replace('\n', "\n    ")
        );
        Self { to: to.to_owned(), subject: format!("Support can read the data of {org}"), text }
    }

    /// A former owner gets the receipt.
    pub(crate) fn purged(to: &str, slug: &str, org: &str, receipt: &str) -> Self {
        let text = format!(
            "Everything of the organization {slug} ({org}) has been deleted. This is the receipt. Keep it in a file:\n\
             nitejar receipt verify FILE checks it against our public keys (GET /v1/receipt-keys).\n\n{receipt}\n"
        );
        Self { to: to.to_owned(), subject: format!("{slug} has been deleted"), text }
    }
}

/// Writes a mail with the change that it tells of, into the outbox of the organization or, for what is no organization's, of
/// `control`.
pub(crate) async fn push(
    conn: &mut PgConnection,
    ctx: &RequestCtx,
    service: &Service,
    mail: &Mail,
) -> Result<()> {
    let sealed = service.master.seal_mail(&serde_json::to_vec(mail)?)?;
    // No order between mails: one that is refused must not hold back the others.
    let key = hex::encode(nitejar_common::rng::bytes::<8>());
    nitejar_db::outbox::push(conn, ctx, &*service.clock, TOPIC, &key, &sealed).await
}

/// Seals mails with the newest master key that an earlier one sealed, where the connection looks. Answers how many were, and
/// how many no key opens: they stay, for their key may be put back into the configuration.
pub(crate) async fn reseal(conn: &mut PgConnection, master: &MasterKeys) -> Result<(usize, usize)> {
    let (mut done, mut lost, mut after) = (0, 0, 0);
    loop {
        let found = mails::after(conn, after).await?;
        let Some((last, _, _)) = found.last() else { return Ok((done, lost)) };
        after = *last;
        for (_, id, sealed) in found.iter().filter(|(_, _, sealed)| !master.newest_sealed(sealed)) {
            match master.reseal_mail(sealed) {
                Ok(sealed) => {
                    mails::replace(conn, id, &sealed).await?;
                    done += 1;
                }
                Err(_) => lost += 1,
            }
        }
    }
}

/// How many mails, where the connection looks, the newest master key does not open.
pub(crate) async fn behind(conn: &mut PgConnection, master: &MasterKeys) -> Result<i64> {
    let (mut count, mut after) = (0, 0);
    loop {
        let found = mails::after(conn, after).await?;
        let Some((last, _, _)) = found.last() else { return Ok(count) };
        after = *last;
        let behind = found.iter().filter(|(_, _, sealed)| !master.newest_sealed(sealed)).count();
        count += i64::try_from(behind).unwrap_or(i64::MAX);
    }
}

/// How mail leaves. SMTP in production and in tests; the seam is here.
pub(crate) trait Mailer: Send + Sync {
    /// Sends one mail. `id` becomes its Message-ID, so that a receiver can tell a repetition.
    fn send<'a>(&'a self, id: &'a str, mail: &'a Mail) -> BoxFuture<'a, Delivery>;
}

/// Mail by SMTP.
pub(crate) struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Smtp {
    pub(crate) fn new(config: &MailConfig) -> Result<Self> {
        let from = config.from.parse().map_err(|_| Error::internal("mail.from is no address"))?;
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(&config.smtp_url)
            .map_err(|_| Error::internal("mail.smtp_url is none"))?;
        let transport = match config.username.is_empty() {
            true => transport,
            false => {
                let password = config.password.expose().to_owned();
                transport.credentials(Credentials::new(config.username.clone(), password))
            }
        };
        let transport = transport.timeout(Some(std::time::Duration::from_secs(5))).build();
        Ok(Self { transport, from })
    }
}

impl Mailer for Smtp {
    fn send<'a>(&'a self, id: &'a str, mail: &'a Mail) -> BoxFuture<'a, Delivery> {
        Box::pin(async move {
            let lasting = |detail: String| Failure { detail, permanent: true, retry_after: None };
            let to: Mailbox = mail.to.parse().map_err(|e| lasting(format!("no address: {e}")))?;
            let host = self.from.email.domain();
            let message = Message::builder()
                .message_id(Some(format!("<{id}@{host}>")))
                .from(self.from.clone())
                .to(to)
                .subject(&mail.subject)
                .singlepart(SinglePart::plain(mail.text.clone()))
                .map_err(|e| lasting(format!("no mail: {e}")))?;
            match self.transport.send(message).await {
                Ok(_) => Ok(()),
                Err(error) => Err(Failure {
                    permanent: error.is_permanent(),
                    detail: format!("the mail server: {error}"),
                    retry_after: None,
                }),
            }
        })
    }
}

/// Delivers the topic.
pub(crate) struct MailDelivery {
    mailer: Arc<dyn Mailer>,
    master: Arc<MasterKeys>,
}

impl MailDelivery {
    pub(crate) fn new(mailer: Arc<dyn Mailer>, master: Arc<MasterKeys>) -> Arc<Self> {
        Arc::new(Self { mailer, master })
    }
}

impl Deliver for MailDelivery {
    fn at_a_time(&self) -> usize {
        // Each may take its five seconds.
        2
    }

    fn deliver<'a>(&'a self, _: &'a RequestCtx, batch: &'a [OutboxMessage]) -> BoxFuture<'a, Vec<Delivery>> {
        Box::pin(async move {
            let mut results = Vec::with_capacity(batch.len());
            for message in batch {
                let opened = self.master.open_mail(&message.payload);
                let mail = opened.and_then(|json| serde_json::from_slice::<Mail>(&json).map_err(Error::from));
                results.push(match mail {
                    Ok(mail) => self.mailer.send(&message.id, &mail).await,
                    // Another replica may know the master key that this one does not yet know.
                    Err(error) => {
                        Err(Failure { detail: error.log_text(), permanent: false, retry_after: None })
                    }
                });
            }
            results
        })
    }
}

//! Mail: written with the change that causes it, sealed because it holds links that sign people in, sent by the outbox.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use lettre::message::{Mailbox, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use nitejar_common::RequestCtx;
use nitejar_common::error::{Error, Result};
use nitejar_db::ControlTx;
use nitejar_db::outbox::{Deliver, Delivery, Failure, OutboxMessage};
use serde::{Deserialize, Serialize};

use crate::Service;
use crate::config::MailConfig;
use crate::domain::envelope::MasterKey;

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
}

/// Writes a mail with the change that it tells of.
pub(crate) async fn push(tx: &mut ControlTx, ctx: &RequestCtx, service: &Service, mail: &Mail) -> Result<()> {
    let sealed = service.master.seal_mail(&serde_json::to_vec(mail)?)?;
    // No order between mails: one that is refused must not hold back the others.
    let key = hex::encode(nitejar_common::rng::bytes::<8>());
    nitejar_db::outbox::push(tx.conn(), ctx, &*service.clock, TOPIC, &key, &sealed).await
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
    master: Arc<MasterKey>,
}

impl MailDelivery {
    pub(crate) fn new(mailer: Arc<dyn Mailer>, master: Arc<MasterKey>) -> Arc<Self> {
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
                    Err(error) => {
                        Err(Failure { detail: error.log_text(), permanent: true, retry_after: None })
                    }
                });
            }
            results
        })
    }
}

//! Tells gateways which answers about credentials they must forget.
//!
//! The database tells with each commit (`migrations/control/0002`), so that it does not matter which replica made a change.
//! One loop hears it and passes it to every stream, with a sign of life each time it has asked: a gateway that gets none
//! for a while keeps no answer for good.

use std::pin::Pin;
use std::time::Duration;

use nitejar_common::error::{Error, Result};
use nitejar_proto::tenancy::v1::CredentialChange;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::Service;

/// How often the database is asked: the longest that a revocation waits here.
const EVERY: Duration = Duration::from_millis(100);

/// A question to the database that takes longer is lost.
const LATE: Duration = Duration::from_millis(500);

/// So many at once are told as everything: forgetting all is cheaper than looking for each.
const MANY: usize = 32;

/// A stream that is behind by so many must forget everything.
const BEHIND: usize = 1024;

/// What a gateway gets.
pub(crate) type Changes = Pin<Box<dyn Stream<Item = Result<CredentialChange, Status>> + Send>>;

/// Everything must be forgotten: something may have been missed.
fn everything() -> CredentialChange {
    CredentialChange { everything: true, ..CredentialChange::default() }
}

fn change(told: &str) -> CredentialChange {
    let mut change = CredentialChange::default();
    match told.split_once(':') {
        Some(("key", id)) => change.key_id = id.into(),
        Some(("user", id)) => change.user_id = id.into(),
        Some(("org", id)) => change.org_id = id.into(),
        _ => return everything(),
    }
    change
}

/// The streams' common source.
pub(crate) fn source() -> broadcast::Sender<CredentialChange> {
    broadcast::Sender::new(BEHIND)
}

impl Service {
    /// Hears changes and passes them on, until told to stop.
    pub(crate) async fn tell_changes(&self, stop: CancellationToken) -> Result<()> {
        loop {
            let error = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Err(error) = self.hear() => error,
            };
            // Gateways get no sign of life meanwhile, and keep nothing.
            tracing::warn!(error = %error.log_text(), "changes of credentials are not heard; listening anew");
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Ends with the first error.
    async fn hear(&self) -> Result<()> {
        let mut listener = self.db.listen("credentials").await?;
        // An error means that no gateway is here: it does not matter.
        let tell = |change| drop(self.changes.send(change));
        tell(everything());
        loop {
            // A connection that is half dead would not end by itself for minutes.
            let heard = tokio::time::timeout(LATE, listener.heard()).await;
            let heard = heard.map_err(|_| Error::unavailable().because("the database is silent"))??;
            if heard.len() > MANY {
                tell(everything());
            } else {
                heard.iter().map(|told| change(told)).for_each(tell);
            }
            tell(CredentialChange::default());
            tokio::time::sleep(EVERY).await;
        }
    }

    /// What is told from now on. It begins with everything: who asks may have missed something before.
    pub(crate) fn changes(&self) -> Changes {
        let state = (self.changes.subscribe(), self.draining.clone(), true);
        Box::pin(futures_util::stream::unfold(state, async |(mut from, draining, first)| {
            if first {
                return Some((Ok(everything()), (from, draining, false)));
            }
            let told = tokio::select! {
                // Another replica goes on.
                () = draining.cancelled() => return None,
                told = from.recv() => told,
            };
            match told {
                Ok(change) => Some((Ok(change), (from, draining, false))),
                Err(RecvError::Lagged(_)) => Some((Ok(everything()), (from, draining, false))),
                Err(RecvError::Closed) => Some((Err(Error::unavailable().into()), (from, draining, false))),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_forgets_everything() {
        assert_eq!(change("key:key_1").key_id, "key_1");
        assert_eq!(change("user:user_1").user_id, "user_1");
        assert_eq!(change("org:org_1").org_id, "org_1");
        for told in ["", "key", "keys:1"] {
            assert!(change(told).everything, "{told}");
        }
    }
}

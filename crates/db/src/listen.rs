//! Hearing what other transactions tell: `NOTIFY`, with proof that nothing is missed.

use nitejar_common::error::Result;
use sqlx::Executor as _;
use sqlx::postgres::PgListener;

use crate::{Db, errors, pool};

/// A connection that listens to one channel. It ends with the first error: whoever listens anew has missed something.
pub struct Listener {
    listener: PgListener,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

impl Db {
    /// Listens, on a connection of its own, to what is told from now on.
    pub async fn listen(&self, channel: &str) -> Result<Listener> {
        let own = pool::small(self.0.control_options.clone(), 1);
        let mut listener = PgListener::connect_with(&own).await.map_err(errors::from_sqlx)?;
        listener.listen(channel).await.map_err(errors::from_sqlx)?;
        Ok(Listener { listener })
    }
}

impl Listener {
    /// All that was told since the last call. The round trip proves that the server would have told us.
    pub async fn heard(&mut self) -> Result<Vec<String>> {
        self.listener.execute("SELECT 1").await.map_err(errors::from_sqlx)?;
        let mut heard = Vec::new();
        while let Some(notification) = self.listener.next_buffered() {
            heard.push(notification.payload().to_owned());
        }
        Ok(heard)
    }
}

//! A caller that has nothing to do with what a test breaks.

use std::collections::BTreeMap;

use nitejar_dev::client::{Client, text};
use reqwest::Method;
use tokio_util::sync::CancellationToken;

/// Reads one path again and again.
pub(crate) struct Watcher {
    stop: CancellationToken,
    seen: tokio::task::JoinHandle<Seen>,
}

/// Status and code, and how often they were answered.
pub(crate) type Seen = BTreeMap<(u16, String), u32>;

impl Watcher {
    pub(crate) fn start(client: &Client, path: &str) -> Self {
        let stop = CancellationToken::new();
        let (client, path, stopped) = (client.clone(), path.to_owned(), stop.clone());
        let seen = tokio::spawn(async move {
            let mut seen = Seen::new();
            while !stopped.is_cancelled() {
                let answer = client.call(Method::GET, &path, None).await.unwrap();
                if answer.status == 503 {
                    assert!(answer.headers.contains_key("retry-after"));
                }
                *seen.entry((answer.status, text(&answer.body, "code"))).or_default() += 1;
            }
            seen
        });
        Self { stop, seen }
    }

    /// Stops; answers what was seen.
    pub(crate) async fn seen(self) -> Seen {
        self.stop.cancel();
        self.seen.await.unwrap()
    }
}

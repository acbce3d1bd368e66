//! GitHub tries a webhook once. What did not reach us is asked for again: we look at the App's deliveries, and ask for
//! those of which no attempt succeeded. Asking too often does no harm: a delivery is known by its id.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use nitejar_common::error::Result;
use reqwest::Method;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Github, next_cursor, read, unreachable};
use crate::Service;

/// Which replica does it.
const LEADER: i64 = 0x5245_4445;
/// Pages of 100 deliveries at the most.
const PAGES: u32 = 20;

impl Service {
    pub(crate) async fn run_redelivery(&self, stop: CancellationToken) -> Result<()> {
        let Some(github) = &self.github else {
            stop.cancelled().await;
            return Ok(());
        };
        let pause = Duration::from_secs(u64::from(self.config.github.redelivery_seconds));
        while !stop.is_cancelled() {
            if let Some(mut leader) = self.db.try_leader(LEADER).await? {
                while !stop.is_cancelled() && leader.still_leads().await {
                    match github.redeliver_failed(self.clock.now() - chrono::Duration::hours(6)).await {
                        Ok(0) => {}
                        Ok(asked) => {
                            tracing::warn!(asked, "webhooks did not reach us; asked GitHub for them again")
                        }
                        Err(error) => {
                            tracing::warn!(error = %error.log_text(), "deliveries can't be looked at now")
                        }
                    }
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }
}

impl Github {
    /// Asks again for every delivery since then of which no attempt succeeded; answers how many.
    async fn redeliver_failed(&self, since: DateTime<Utc>) -> Result<usize> {
        let mut succeeded: BTreeSet<String> = BTreeSet::new();
        let mut failed: BTreeMap<String, i64> = BTreeMap::new();
        let mut cursor = String::new();
        for _ in 0..PAGES {
            let path = format!("/app/hook/deliveries?per_page=100{cursor}");
            let response =
                self.api(Method::GET, &path, &self.app_token()?).send().await.map_err(unreachable)?;
            let next = next_cursor(&response);
            let page = read(response).await?;
            let mut old = false;
            for delivery in page.as_array().map(Vec::as_slice).unwrap_or_default() {
                old |= at(delivery).is_none_or(|at| at < since);
                let guid = delivery["guid"].as_str().unwrap_or_default().to_owned();
                match delivery["status_code"].as_u64() {
                    Some(200..=299) => {
                        succeeded.insert(guid);
                    }
                    _ => {
                        // The newest comes first: that is the attempt to repeat.
                        let id = delivery["id"].as_i64().unwrap_or_default();
                        failed.entry(guid).or_insert(id);
                    }
                }
            }
            match next {
                Some(next) if !old => cursor = format!("&cursor={next}"),
                _ => break,
            }
        }
        failed.retain(|guid, _| !succeeded.contains(guid));
        for id in failed.values() {
            let path = format!("/app/hook/deliveries/{id}/attempts");
            let request = self.api(Method::POST, &path, &self.app_token()?);
            read(request.send().await.map_err(unreachable)?).await?;
        }
        Ok(failed.len())
    }
}

fn at(delivery: &Value) -> Option<DateTime<Utc>> {
    delivery["delivered_at"].as_str()?.parse().ok()
}

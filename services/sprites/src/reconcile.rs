//! Sprites become what they should be. Each step's phase is written before the provider is asked, every provider call
//! may be repeated, so any crash is followed by the same step again.
//!
//! ```text
//! provisioning → stopped → starting → running → stopping → stopped → …      any → destroying → gone
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use nitejar_common::error::{Error, Result};
use nitejar_common::key::{self, KeyKind};
use nitejar_common::secret::Secret;
use sha2::Sha256;
use tokio_util::sync::CancellationToken;

use crate::Service;
use crate::provider::Start;
use crate::store::queue;
use crate::store::sprites::{self, SpriteRow};

/// Which replica does it.
const LEADER: i64 = 0x5350_5249;
/// A runner's long poll takes 25 seconds at the most.
const MUTE: chrono::Duration = chrono::Duration::seconds(90);
/// Failures in a row after which the tenant is shown `failed`.
const SHOWN_AS_FAILED: i32 = 3;

impl Service {
    pub(crate) async fn run_reconcile(&self, stop: CancellationToken) -> Result<()> {
        while !stop.is_cancelled() {
            if let Some(mut leader) = self.db.try_leader(LEADER).await? {
                self.reap_strays().await?;
                while !stop.is_cancelled() && leader.still_leads().await {
                    if let Err(error) = self.reconcile_turn().await {
                        tracing::warn!(error = %error.log_text(), "reconcile; trying again");
                    }
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = self.unsettled.notified() => {}
                        () = tokio::time::sleep(Duration::from_millis(500)) => {}
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
        Ok(())
    }

    /// Sprites that the provider has and we do not know: nobody would ever stop them.
    async fn reap_strays(&self) -> Result<()> {
        let there = self.provider.all().await?;
        let mut ours = BTreeSet::new();
        for part in self.db.parts_twice() {
            ours.extend(sprites::all_ids(&mut *part.control_once().await?).await?);
        }
        for stray in there.difference(&ours) {
            tracing::warn!(sprite = stray, "a Sprite that nobody knows is destroyed");
            self.provider.destroy(stray).await?;
        }
        Ok(())
    }

    async fn reconcile_turn(&self) -> Result<()> {
        let now = self.clock.now();
        let mut rows = Vec::new();
        for (i, part) in self.db.parts().enumerate() {
            let found = sprites::to_reconcile(&mut *part.control_once().await?, now).await?;
            rows.extend(found.into_iter().map(|row| SpriteRow { part: i, ..row }));
        }
        if rows.is_empty() {
            return Ok(());
        }
        let running = self.provider.running().await?;
        let mut busy = Vec::new();
        let mut steps: Vec<(SpriteRow, &'static str)> = Vec::new();
        let mut waiting = Vec::new();
        let mut idle = Vec::new();
        let mut used: BTreeMap<String, usize> = BTreeMap::new();
        // A process that is there but asks for nothing while work waits is as good as dead.
        let mute = |row: &SpriteRow| {
            row.ready > 0 && row.leased == 0 && !row.paused && row.asked_at.is_some_and(|at| now - at > MUTE)
        };
        let idle_after = chrono::Duration::seconds(i64::from(self.config.idle_seconds));
        for row in rows {
            if matches!(row.phase.as_str(), "starting" | "running" | "stopping") {
                *used.entry(row.org_id.clone()).or_default() += 1;
            }
            match row.phase.as_str() {
                "starting" | "running" if row.suspended => steps.push((row, "halt")),
                "running" if !running.contains(&row.id) || mute(&row) => steps.push((row, "lost")),
                "running" if row.leased + row.queued > 0 && !(row.paused && row.leased == 0) => {
                    busy.push(row.id.clone())
                }
                "running" if now - row.active_at > idle_after => steps.push((row, "stop")),
                "running" => idle.push(row),
                "provisioning" => steps.push((row, "provision")),
                "starting" => steps.push((row, "start")),
                "stopping" => steps.push((row, "stop")),
                "destroying" => steps.push((row, "destroy")),
                "stopped" if row.ready > 0 && !row.paused && !row.suspended && row.next_try_at <= now => {
                    waiting.push(row)
                }
                _ => {}
            }
        }
        // Who has the fewest running goes first, then who has waited longest.
        let mut free = usize::try_from(self.config.max_running_sprites)
            .unwrap_or(usize::MAX)
            .saturating_sub(used.values().sum());
        idle.sort_by_key(|r| std::cmp::Reverse(r.active_at));
        while !waiting.is_empty() {
            waiting.sort_by_key(|r| (used.get(&r.org_id).copied().unwrap_or(0), r.oldest));
            if free == 0 {
                // An idle one makes room; its place is taken in the next turn.
                let Some(row) = idle.pop() else { break };
                steps.push((row, "stop"));
                waiting.remove(0);
                continue;
            }
            let row = waiting.remove(0);
            *used.entry(row.org_id.clone()).or_default() += 1;
            free -= 1;
            steps.push((row, "start"));
        }
        if !busy.is_empty() {
            for part in self.db.parts() {
                sprites::touch(&mut *part.control_once().await?, &busy, now).await?;
            }
        }
        stream::iter(steps)
            .for_each_concurrent(8, |(row, step)| async move {
                let id = row.id.clone();
                if let Err(error) = self.step(row, step).await {
                    tracing::warn!(sprite = id, step, error = %error.log_text(), "a Sprite's step failed");
                }
            })
            .await;
        Ok(())
    }

    async fn step(&self, mut row: SpriteRow, step: &str) -> Result<()> {
        let now = self.clock.now();
        match step {
            "provision" => {
                self.provider.provision(&row.id).await?;
                self.reach(&row, "stopped", "stopped", "").await
            }
            "start" => {
                let start = self.starting(&row).await?;
                let Some(start) = start else { return Ok(()) };
                match self.provider.start(&start).await {
                    Ok(()) => {
                        row.active_at = self.clock.now();
                        self.reach(&row, "running", "running", "").await
                    }
                    Err(error) => {
                        self.failed(&mut row, "the provider could not start it").await?;
                        Err(error)
                    }
                }
            }
            "stop" => {
                if row.phase != "stopping" && !self.write_phase(&row, "stopping").await? {
                    return Ok(());
                }
                self.wake.ring([row.agent_id.as_str()]);
                self.provider.stop(&row.id).await?;
                self.reach(&row, "stopped", "stopped", "idle").await
            }
            "halt" => {
                if !self.write_phase(&row, "stopping").await? {
                    return Ok(());
                }
                self.interrupt(&row).await?;
                self.provider.stop(&row.id).await?;
                self.reach(&row, "stopped", "stopped", "the organization is suspended").await
            }
            "lost" => {
                // Its jobs can't end any more: they are taken back now rather than when their lease ends.
                if let Some(ctx) = self.of_sprite(&row).await? {
                    let mut tx = self.db.tenant(&ctx).await?;
                    queue::expire_agent(tx.conn(), &row.agent_id, now).await?;
                    tx.commit().await?;
                }
                self.provider.stop(&row.id).await?;
                let ran = now - row.active_at > chrono::Duration::seconds(60);
                row.failures = if ran { 0 } else { row.failures };
                self.failed(&mut row, "its runner ended unexpectedly").await
            }
            _ => {
                self.provider.destroy(&row.id).await?;
                if let Some(ctx) = self.of_sprite(&row).await? {
                    let mut tx = self.db.tenant(&ctx).await?;
                    sprites::show(tx.conn(), &row.id, "reclaimed", "its agent was deleted", now).await?;
                    tx.commit().await?;
                }
                let part = self.db.part(row.part)?;
                Ok(sprites::delete(&mut *part.control_once().await?, &row.id).await?)
            }
        }
    }

    async fn write_phase(&self, row: &SpriteRow, phase: &str) -> Result<bool> {
        let part = self.db.part(row.part)?;
        Ok(sprites::set_phase(&mut *part.control_once().await?, row, phase).await?)
    }

    async fn reach(&self, row: &SpriteRow, phase: &str, shown: &str, reason: &str) -> Result<()> {
        if self.write_phase(row, phase).await?
            && let Some(ctx) = self.of_sprite(row).await?
        {
            let mut tx = self.db.tenant(&ctx).await?;
            sprites::show(tx.conn(), &row.id, shown, reason, self.clock.now()).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Back to `stopped`, to be tried again later: 0.5 s, doubling up to a minute.
    async fn failed(&self, row: &mut SpriteRow, reason: &str) -> Result<()> {
        let exponent = u32::try_from(row.failures).unwrap_or(0).min(7);
        let wait = chrono::Duration::milliseconds(i64::from(500u32 << exponent).min(60_000));
        row.failures += 1;
        row.next_try_at = self.clock.now() + wait;
        let shown = if row.failures >= SHOWN_AS_FAILED { "failed" } else { "stopped" };
        self.reach(row, "stopped", shown, reason).await
    }

    /// Writes the intent to start, with the hash of the token that the runner will have.
    async fn starting(&self, row: &SpriteRow) -> Result<Option<Start>> {
        // A crash after this repeats the start with a newer generation, which replaces the runner.
        let generation = row.generation + 1;
        let token = self.runner_token(&row.id, generation)?;
        let hash = key::sha256(token.expose());
        let mut conn = self.db.part(row.part)?.control_once().await?;
        let written = sprites::set_starting(&mut conn, &row.id, generation, &hash, self.clock.now()).await?;
        Ok(written.then(|| Start { sprite: row.id.clone(), token, concurrency: row.concurrency }))
    }

    /// A runner's token is derived, not kept: only its hash is in the database.
    fn runner_token(&self, sprite: &str, generation: i64) -> Result<Secret> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.config.runner_secret.expose().as_bytes())
            .map_err(|_| Error::internal("HMAC takes a key of any length"))?;
        mac.update(format!("{sprite}|{generation}").as_bytes());
        Ok(key::from_random(KeyKind::Runner, mac.finalize().into_bytes().into()))
    }
}

//! Works off the webhooks that were kept: each once, at least; what it does has a key of its own.

use std::time::Duration;

use nitejar_common::RequestCtx;
use nitejar_common::error::{Code, Result};
use nitejar_common::grpc::trace;
use nitejar_common::id::WorkItemId;
use sqlx::types::Json;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::event::{self, Event, Work};
use crate::Service;
use crate::domain::agent::{Signal, takes};
use crate::store::github::DeliveryRow;
use crate::store::work_items::WorkItemRow;
use crate::store::{agents, github, integrations};

/// Another replica takes a webhook over after so long.
const LEASE: chrono::Duration = chrono::Duration::seconds(20);
/// Attempts before a webhook is given up, visibly.
const ATTEMPTS: i32 = 20;

impl Service {
    pub(crate) async fn run_webhooks(&self, stop: CancellationToken) -> Result<()> {
        let mut swept = self.clock.now();
        while !stop.is_cancelled() {
            let busy = match self.webhooks_turn().await {
                Ok(busy) => busy,
                Err(error) => {
                    tracing::warn!(error = %error.log_text(), "webhooks; trying again");
                    false
                }
            };
            if self.clock.now() - swept > chrono::Duration::hours(1) {
                swept = self.clock.now();
                let mut tx = self.db.control().await?;
                github::sweep(tx.conn(), swept - chrono::Duration::days(30)).await?;
                tx.commit().await?;
            }
            if !busy {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.received.notified() => {}
                    () = tokio::time::sleep(Duration::from_millis(500)) => {}
                }
            }
        }
        Ok(())
    }

    async fn webhooks_turn(&self) -> Result<bool> {
        let now = self.clock.now();
        let mut tx = self.db.control().await?;
        let rows = github::lease_deliveries(tx.conn(), now, now + LEASE).await?;
        tx.commit().await?;
        // In the order in which they came: of suspend and unsuspend the last one holds.
        let mut rows = rows;
        rows.sort_by_key(|row| row.received_at);
        let busy = !rows.is_empty();
        for row in rows {
            let span = tracing::info_span!("github.webhook", service = "sprites", event = %row.event, delivery = %row.delivery_id);
            trace::continue_from_text(&span, &row.trace);
            let result = self.work_off(&row).instrument(span).await;
            let mut tx = self.db.control().await?;
            match result {
                Ok(result) => github::finish_delivery(tx.conn(), &row.delivery_id, result, now).await?,
                Err(error) if row.attempts >= ATTEMPTS => {
                    tracing::error!(delivery = row.delivery_id, error = %error.log_text(), "a webhook is given up");
                    github::finish_delivery(tx.conn(), &row.delivery_id, "given up", now).await?;
                }
                Err(error) => {
                    tracing::warn!(delivery = row.delivery_id, error = %error.log_text(), "a webhook waits");
                    let wait = chrono::Duration::seconds(1 << row.attempts.clamp(0, 8));
                    github::postpone_delivery(tx.conn(), &row.delivery_id, now + wait).await?;
                }
            }
            tx.commit().await?;
        }
        Ok(busy)
    }

    async fn work_off(&self, row: &DeliveryRow) -> Result<&'static str> {
        let Ok((installation, event)) = event::read(&row.event, &row.body) else { return Ok("malformed") };
        if let Event::Ignored(why) = event {
            return Ok(why);
        }
        let Some(installation) = installation else { return Ok("of no installation") };
        let bound = github::installation_anywhere(&self.db, installation).await?;
        let Some((org, suspended)) = bound else { return Ok("of an installation that nobody connected") };
        let ctx = RequestCtx::service("sprites", &*self.clock).for_tenant(org.parse()?);
        match event {
            Event::Work(_) if suspended => Ok("suspended"),
            Event::Work(work) => self.route(&ctx, installation, *work).await,
            Event::Uninstalled => self.change_integration(&ctx, installation, "deleted").await,
            Event::Suspended(true) => self.change_integration(&ctx, installation, "suspended").await,
            Event::Suspended(false) => self.change_integration(&ctx, installation, "active").await,
            Event::Repositories => self.refresh_repositories(&ctx, installation).await,
            Event::Ignored(why) => Ok(why),
        }
    }

    /// Gives the work to every agent that takes it.
    async fn route(&self, ctx: &RequestCtx, installation: i64, work: Work) -> Result<&'static str> {
        let mut tx = self.db.tenant(ctx).await?;
        let signal = Signal {
            repository: &work.repository,
            labels: work.labels.iter().map(String::as_str).collect(),
            text: &work.body,
            opened: work.opened,
        };
        // Title and text of what was opened may both mention an agent.
        let opened_text = format!("{}\n{}", work.title, work.body);
        let signal = if work.opened { Signal { text: &opened_text, ..signal } } else { signal };
        let living = agents::list(tx.conn(), "", 10_000).await?;
        let mut takers: Vec<String> = Vec::new();
        for agent in living {
            let wants = !agent.config.command.is_empty() && takes(&agent.handle, &agent.config, &signal);
            if wants && agents::hold(tx.conn(), &agent.id).await?.is_some() {
                takers.push(agent.id);
            }
        }
        if takers.is_empty() {
            return Ok("no agent takes it");
        }
        let item = WorkItemRow {
            id: WorkItemId::new(&*self.clock).to_string(),
            source: "github".into(),
            reply_to: Some(Json(serde_json::to_value(work.target(installation))?)),
            event: work.event,
            dedupe_key: Some(work.dedupe_key),
            session_key: work.session_key,
            title: work.title,
            body: work.body,
            sender: work.sender,
            url: work.url,
            created_at: self.clock.now(),
        };
        let intake = self.take_in(&mut tx, ctx, item, &takers).await?;
        tx.commit().await?;
        self.taken_in();
        Ok(if intake.new { "work" } else { "known" })
    }

    async fn change_integration(
        &self,
        ctx: &RequestCtx,
        installation: i64,
        state: &str,
    ) -> Result<&'static str> {
        let mut tx = self.db.tenant(ctx).await?;
        let Some(found) = integrations::by_installation(tx.conn(), installation).await? else {
            return Ok("gone");
        };
        let Some(mut row) = integrations::lock(tx.conn(), &found.id).await? else { return Ok("gone") };
        state.clone_into(&mut row.state);
        integrations::save(tx.conn(), &row).await?;
        let action = match state {
            "deleted" => "integration.deleted",
            "suspended" => "integration.suspended",
            _ => "integration.resumed",
        };
        let details = [("by", "github".to_owned())];
        nitejar_db::audit::push(tx.conn(), ctx, &*self.clock, action, ("integration", &row.id), &details)
            .await?;
        tx.commit().await?;
        Ok("done")
    }

    async fn refresh_repositories(&self, ctx: &RequestCtx, installation: i64) -> Result<&'static str> {
        let Some(app) = &self.github else { return Ok("GitHub is off") };
        let repositories = match app.repositories(installation).await {
            Ok(repositories) => repositories,
            Err(error) if error.code() == Code::NotFound => return Ok("gone"),
            Err(error) => return Err(error),
        };
        let mut tx = self.db.tenant(ctx).await?;
        let Some(found) = integrations::by_installation(tx.conn(), installation).await? else {
            return Ok("gone");
        };
        let Some(mut row) = integrations::lock(tx.conn(), &found.id).await? else { return Ok("gone") };
        row.repositories = Json(repositories);
        integrations::save(tx.conn(), &row).await?;
        tx.commit().await?;
        Ok("done")
    }
}

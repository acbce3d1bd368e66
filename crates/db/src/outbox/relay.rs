//! Delivers what outboxes hold.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use nitejar_common::RequestCtx;
use nitejar_common::error::{Error, Result};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use super::OutboxMessage;
use crate::{ControlTx, Db, TenantTx, errors};

/// Why a message was not taken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// For the log and the row.
    pub detail: String,
    /// Never to be tried again: it is kept as dead, for people to look at.
    pub permanent: bool,
    /// Not before that long, where the receiver said so.
    pub retry_after: Option<Duration>,
}

impl From<Error> for Failure {
    /// Everything may pass, but a request that is itself wrong.
    fn from(error: Error) -> Self {
        Self {
            permanent: error.code() == nitejar_common::Code::InvalidArgument,
            retry_after: error.retry_after_value(),
            detail: error.log_text(),
        }
    }
}

/// What became of one message.
pub type Delivery = Result<(), Failure>;

/// Takes the messages of one topic to where they belong.
pub trait Deliver: Send + Sync {
    /// So many at a time take well under [`LEASE`].
    fn at_a_time(&self) -> usize {
        100
    }

    /// Delivers a batch of one tenant (`ctx` names it; none for `control`'s own) and answers for each, in order. What has no
    /// answer was not tried.
    fn deliver<'a>(&'a self, ctx: &'a RequestCtx, batch: &'a [OutboxMessage])
    -> BoxFuture<'a, Vec<Delivery>>;
}

/// At most so many messages of a tenant at a time.
const BATCH: i64 = 500;
/// What a killed relay held is found again after so long. One delivery must take less; what would take longer is let go.
const LEASE: Duration = Duration::from_secs(20);
/// Tried that often, then dead: with the backoff below that is more than a day.
const ATTEMPTS: i32 = 300;
/// How often to look when nothing wakes us.
const POLL: Duration = Duration::from_millis(250);
/// Tenants served at the same time.
const PARALLEL: usize = 4;

/// The relay of one service, in all of its databases. Any number of replicas may run.
#[derive(Debug)]
pub struct Relay {
    parts: Vec<Part>,
}

/// The relay of one database.
#[derive(Clone)]
struct Part {
    db: Db,
    service: &'static str,
    topics: HashMap<&'static str, Arc<dyn Deliver>>,
    depth: Gauge<u64>,
    age: Gauge<f64>,
    delivered: Counter<u64>,
    failed: Counter<u64>,
    dead: Counter<u64>,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Part({})", self.service)
    }
}

impl Relay {
    /// A relay without topics yet.
    pub fn new(db: Db, service: &'static str) -> Self {
        Self { parts: db.parts().map(|part| Part::new(part.clone(), service)).collect() }
    }

    /// Adds a topic.
    #[must_use]
    pub fn topic(mut self, name: &'static str, deliver: Arc<dyn Deliver>) -> Self {
        for part in &mut self.parts {
            part.topics.insert(name, Arc::clone(&deliver));
        }
        self
    }

    /// Delivers until told to stop. What is under way is finished first.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        let each = self.parts.iter().map(|part| part.run(stop.clone()));
        futures_util::future::try_join_all(each).await.map(drop)
    }

    /// Serves what is due now; answers whether there was anything.
    pub async fn turn(&self) -> Result<bool> {
        let mut found = false;
        for part in &self.parts {
            found |= part.turn().await?;
        }
        Ok(found)
    }
}

/// Either outbox, in a transaction.
enum Tx {
    Tenant(TenantTx),
    Control(ControlTx),
}

impl Tx {
    fn conn(&mut self) -> &mut PgConnection {
        match self {
            Tx::Tenant(tx) => tx.conn(),
            Tx::Control(tx) => tx.conn(),
        }
    }

    async fn commit(self) -> Result<()> {
        match self {
            Tx::Tenant(tx) => tx.commit().await,
            Tx::Control(tx) => tx.commit().await,
        }
    }
}

impl Part {
    fn new(db: Db, service: &'static str) -> Self {
        let meter = opentelemetry::global::meter("nitejar");
        Self {
            db,
            service,
            topics: HashMap::new(),
            depth: meter
                .u64_gauge("outbox_depth")
                .with_description("Pointers to outboxes with something due")
                .build(),
            age: meter
                .f64_gauge("outbox_age_seconds")
                .with_description("How long the oldest has been due")
                .build(),
            delivered: meter.u64_counter("outbox_delivered").build(),
            failed: meter.u64_counter("outbox_failed").build(),
            dead: meter.u64_counter("outbox_dead").build(),
        }
    }

    /// Delivers until told to stop. What is under way is finished first.
    async fn run(&self, stop: CancellationToken) -> Result<()> {
        let mut turns = 0u32;
        while !stop.is_cancelled() {
            let busy = match self.turn().await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(service = self.service, error = %error.log_text(), "outbox relay; trying again");
                    false
                }
            };
            if turns.is_multiple_of(40) {
                self.measure().await.unwrap_or_default();
            }
            turns = turns.wrapping_add(1);
            if !busy {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.db.0.outbox_hint.notified() => {}
                    () = tokio::time::sleep(POLL) => {}
                }
            }
        }
        Ok(())
    }

    /// Serves what is due now; answers whether there was anything.
    async fn turn(&self) -> Result<bool> {
        let now = self.db.clock().now();
        let claimed: Vec<(i64, i64)> = sqlx::query_as(
            "UPDATE control.outbox_due SET leased_until = $2 WHERE id IN ( \
                SELECT id FROM control.outbox_due d WHERE due_at <= $1 AND (leased_until IS NULL OR leased_until < $1) \
                AND NOT EXISTS (SELECT FROM control.tenants WHERE number = d.tenant_number AND state = 'arriving') \
                ORDER BY due_at LIMIT 200 FOR UPDATE SKIP LOCKED) RETURNING id, tenant_number",
        )
        .bind(now)
        .bind(now + LEASE)
        .fetch_all(&self.db.0.control)
        .await
        .map_err(errors::from_sqlx)?;
        let mut tenants: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for (id, tenant) in claimed {
            tenants.entry(tenant).or_default().push(id);
        }
        let found = !tenants.is_empty();
        stream::iter(tenants)
            .for_each_concurrent(PARALLEL, |(tenant, pointers)| async move {
                let served = async {
                    let control = &self.db.0.control;
                    match self.serve(tenant).await? {
                        None => sqlx::query("DELETE FROM control.outbox_due WHERE id = ANY($1)").bind(&pointers),
                        // Another replica holds messages. Should it die, somebody must look again.
                        Some(until) => sqlx::query(
                            "UPDATE control.outbox_due SET due_at = $2, leased_until = NULL WHERE id = ANY($1)",
                        )
                        .bind(&pointers)
                        .bind(until),
                    }
                    .execute(control)
                    .await
                    .map_err(errors::from_sqlx)
                };
                if let Err(error) = served.await {
                    // The pointers' lease runs out and they are found again.
                    tracing::warn!(service = self.service, tenant, error = %error.log_text(), "outbox not served");
                }
            })
            .await;
        Ok(found)
    }

    /// Delivers a tenant's due messages until none is left for us. Answers until when another replica holds some.
    async fn serve(&self, tenant: i64) -> Result<Option<DateTime<Utc>>> {
        let base = RequestCtx::service(self.service, &**self.db.clock());
        let ctx = match tenant {
            0 => base,
            _ => match self.db.org_of(tenant).await? {
                Some(org) => base.for_tenant(org),
                None => return Ok(None), // Purged meanwhile: nothing is left to deliver.
            },
        };
        loop {
            let batch = self.lease(&ctx).await?;
            if batch.is_empty() {
                return self.held_by_others(&ctx).await;
            }
            let mut by_topic: BTreeMap<String, Vec<OutboxMessage>> = BTreeMap::new();
            for message in batch {
                by_topic.entry(message.topic.clone()).or_default().push(message);
            }
            let began = tokio::time::Instant::now();
            for (topic, messages) in by_topic {
                let deliver = self.topics.get(topic.as_str());
                // What follows a failed one of its key waits with it.
                let mut failed: HashSet<String> = HashSet::new();
                for chunk in messages.chunks(deliver.map_or(100, |d| d.at_a_time())) {
                    let (ready, behind): (Vec<_>, Vec<_>) =
                        chunk.iter().cloned().partition(|m| !failed.contains(&m.key));
                    let results = match deliver {
                        // No time is left under the lease: another turn, or another replica, takes the rest.
                        _ if ready.is_empty() || began.elapsed() > LEASE / 2 => Vec::new(),
                        Some(deliver) => deliver.deliver(&ctx, &ready).await,
                        None => vec![Err(unknown(&topic)); ready.len()],
                    };
                    let wrong =
                        ready.iter().zip(&results).filter(|(_, r)| r.as_ref().is_err_and(|f| !f.permanent));
                    failed.extend(wrong.map(|(m, _)| m.key.clone()));
                    self.record(&ctx, &topic, &ready, &results).await?;
                    self.record(&ctx, &topic, &behind, &[]).await?;
                }
            }
        }
    }

    async fn held_by_others(&self, ctx: &RequestCtx) -> Result<Option<DateTime<Utc>>> {
        let mut tx = self.begin(ctx).await?;
        let until: Option<DateTime<Utc>> = sqlx::query_scalar(
            "SELECT min(leased_until) FROM outbox WHERE dead_at IS NULL AND leased_until >= $1",
        )
        .bind(self.db.clock().now())
        .fetch_one(tx.conn())
        .await
        .map_err(errors::from_sqlx)?;
        tx.commit().await?;
        Ok(until)
    }

    async fn begin(&self, ctx: &RequestCtx) -> Result<Tx> {
        Ok(match ctx.tenant {
            Some(_) => Tx::Tenant(self.db.tenant(ctx).await?),
            None => Tx::Control(self.db.control().await?),
        })
    }

    /// Takes the next due messages, none that another replica has, and none behind one of its key that waits.
    async fn lease(&self, ctx: &RequestCtx) -> Result<Vec<OutboxMessage>> {
        let now = self.db.clock().now();
        let mut tx = self.begin(ctx).await?;
        let mut batch: Vec<OutboxMessage> = sqlx::query_as(
            "UPDATE outbox SET leased_until = $2 WHERE seq IN ( \
                SELECT o.seq FROM outbox o WHERE o.dead_at IS NULL AND o.next_attempt_at <= $1 \
                AND (o.leased_until IS NULL OR o.leased_until < $1) \
                AND NOT EXISTS (SELECT FROM outbox p WHERE p.topic = o.topic AND p.key = o.key AND p.seq < o.seq \
                    AND p.dead_at IS NULL AND (p.next_attempt_at > $1 OR p.leased_until >= $1)) \
                ORDER BY o.seq LIMIT $3 FOR UPDATE SKIP LOCKED) \
             RETURNING seq, id, topic, key, payload, request_id, trace, created_at, attempts",
        )
        .bind(now)
        .bind(now + LEASE)
        .bind(BATCH)
        .fetch_all(tx.conn())
        .await
        .map_err(errors::from_sqlx)?;
        tx.commit().await?;
        batch.sort_by_key(|m| m.seq);
        Ok(batch)
    }

    async fn record(
        &self,
        ctx: &RequestCtx,
        topic: &str,
        messages: &[OutboxMessage],
        results: &[Delivery],
    ) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let now = self.db.clock().now();
        let labels = [KeyValue::new("service", self.service), KeyValue::new("topic", topic.to_owned())];
        let (mut done, mut untried) = (Vec::new(), Vec::new());
        let mut tx = self.begin(ctx).await?;
        for (i, message) in messages.iter().enumerate() {
            match results.get(i) {
                Some(Ok(())) => done.push(message.id.clone()),
                Some(Err(failure)) => self.fail(&mut tx, message, failure, now, &labels).await?,
                None => untried.push(message.id.clone()),
            }
        }
        // By id: a moved or restored outbox may give a number again.
        sqlx::query("DELETE FROM outbox WHERE id = ANY($1)")
            .bind(&done)
            .execute(tx.conn())
            .await
            .map_err(errors::from_sqlx)?;
        if !untried.is_empty() {
            sqlx::query("UPDATE outbox SET leased_until = NULL WHERE id = ANY($1)")
                .bind(&untried)
                .execute(tx.conn())
                .await
                .map_err(errors::from_sqlx)?;
        }
        tx.commit().await?;
        self.delivered.add(u64::try_from(done.len()).unwrap_or(0), &labels);
        Ok(())
    }

    async fn fail(
        &self,
        tx: &mut Tx,
        message: &OutboxMessage,
        failure: &Failure,
        now: DateTime<Utc>,
        labels: &[KeyValue],
    ) -> Result<()> {
        let attempts = message.attempts + 1;
        let dead = failure.permanent || attempts >= ATTEMPTS;
        let next = now + failure.retry_after.unwrap_or_default().max(backoff(attempts));
        if dead {
            self.dead.add(1, labels);
            tracing::error!(
                service = self.service,
                topic = message.topic,
                id = message.id,
                attempts,
                detail = failure.detail,
                "outbox message is dead"
            );
        } else {
            self.failed.add(1, labels);
            tracing::warn!(
                service = self.service,
                topic = message.topic,
                id = message.id,
                attempts,
                detail = failure.detail,
                "outbox message not taken; trying again"
            );
        }
        let detail: String = failure.detail.chars().take(500).collect();
        sqlx::query(
            "UPDATE outbox SET attempts = $2, next_attempt_at = $3, leased_until = NULL, last_error = $4, \
             dead_at = CASE WHEN $5 THEN $6 END WHERE id = $1",
        )
        .bind(&message.id)
        .bind(attempts)
        .bind(next)
        .bind(detail)
        .bind(dead)
        .bind(now)
        .execute(tx.conn())
        .await
        .map_err(errors::from_sqlx)?;
        // A dead one may hold back others no longer: they are due at once.
        let due = if dead { now } else { next };
        sqlx::query("SELECT control.outbox_mark($1)")
            .bind(due)
            .execute(tx.conn())
            .await
            .map_err(errors::from_sqlx)?;
        Ok(())
    }

    async fn measure(&self) -> Result<()> {
        let (count, oldest): (i64, Option<DateTime<Utc>>) =
            sqlx::query_as("SELECT count(*), min(due_at) FROM control.outbox_due WHERE due_at <= $1")
                .bind(self.db.clock().now())
                .fetch_one(&self.db.0.control)
                .await?;
        let age = oldest.map_or(0.0, |at| (self.db.clock().now() - at).as_seconds_f64());
        let labels = [KeyValue::new("service", self.service)];
        self.depth.record(u64::try_from(count).unwrap_or(0), &labels);
        self.age.record(age, &labels);
        Ok(())
    }
}

/// 0.2 s, doubling up to 5 minutes, with up to a quarter of jitter.
fn backoff(attempts: i32) -> Duration {
    let exponent = u32::try_from(attempts - 1).unwrap_or(0).min(11);
    let base = Duration::from_millis(200 << exponent).min(Duration::from_secs(300));
    base + Duration::from_millis(nitejar_common::rng::below(u64::try_from(base.as_millis()).unwrap_or(0) / 4))
}

fn unknown(topic: &str) -> Failure {
    Failure { detail: format!("nobody delivers {topic}"), permanent: false, retry_after: None }
}

//! Events and the head of their chain.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, QueryBuilder};
use std::collections::BTreeMap;

use crate::domain::chain::{Event, Hash, Head};

#[derive(FromRow)]
struct Row {
    sequence: i64,
    id: String,
    occurred_at: DateTime<Utc>,
    actor_kind: String,
    actor_id: String,
    action: String,
    target_kind: String,
    target_id: String,
    outcome: String,
    request_id: String,
    service: String,
    details: Json<BTreeMap<String, String>>,
    prev_hash: Vec<u8>,
    hash: Vec<u8>,
}

impl Row {
    fn into_event(self, org_id: &str) -> Event {
        Event {
            id: self.id,
            org_id: org_id.to_owned(),
            sequence: self.sequence,
            occurred_at: self.occurred_at,
            actor_kind: self.actor_kind,
            actor_id: self.actor_id,
            action: self.action,
            target_kind: self.target_kind,
            target_id: self.target_id,
            outcome: self.outcome,
            request_id: self.request_id,
            service: self.service,
            details: self.details.0,
            prev_hash: hex::encode(self.prev_hash),
            hash: hex::encode(self.hash),
        }
    }
}

const COLUMNS: &str = "SELECT sequence, id, occurred_at, actor_kind, actor_id, action, target_kind, target_id, outcome, \
                       request_id, service, details, prev_hash, hash FROM events";

/// Which events to read; empty texts do not filter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this action.
    pub action: String,
    /// Only this actor.
    pub actor_id: String,
    /// Only this target.
    pub target_id: String,
    /// Only this request.
    pub request_id: String,
    /// Only from then on.
    pub occurred_after: Option<DateTime<Utc>>,
    /// Only before then.
    pub occurred_before: Option<DateTime<Utc>>,
}

/// Events after number `after`, in order.
pub async fn list(
    conn: &mut PgConnection,
    org_id: &str,
    filter: &Filter,
    after: i64,
    limit: i64,
) -> sqlx::Result<Vec<Event>> {
    let mut query = QueryBuilder::new(COLUMNS);
    query.push(" WHERE sequence > ").push_bind(after);
    for (column, value) in [
        (" AND action = ", &filter.action),
        (" AND actor_id = ", &filter.actor_id),
        (" AND target_id = ", &filter.target_id),
        (" AND request_id = ", &filter.request_id),
    ] {
        if !value.is_empty() {
            query.push(column).push_bind(value.clone());
        }
    }
    if let Some(from) = filter.occurred_after {
        query.push(" AND occurred_at >= ").push_bind(from);
    }
    if let Some(to) = filter.occurred_before {
        query.push(" AND occurred_at < ").push_bind(to);
    }
    query.push(" ORDER BY sequence LIMIT ").push_bind(limit);
    let rows: Vec<Row> = query.build_query_as().fetch_all(conn).await?;
    Ok(rows.into_iter().map(|r| r.into_event(org_id)).collect())
}

/// One event.
pub async fn get(conn: &mut PgConnection, org_id: &str, id: &str) -> sqlx::Result<Option<Event>> {
    let mut query = QueryBuilder::new(COLUMNS);
    query.push(" WHERE id = ").push_bind(id.to_owned());
    let row: Option<Row> = query.build_query_as().fetch_optional(conn).await?;
    Ok(row.map(|r| r.into_event(org_id)))
}

/// The head as it is.
pub async fn head(conn: &mut PgConnection) -> sqlx::Result<Head> {
    let row: (i64, Vec<u8>) = sqlx::query_as("SELECT sequence, hash FROM chain_head").fetch_one(conn).await?;
    Ok(into_head(row))
}

/// The head, locked until the transaction ends: nobody else appends meanwhile.
pub async fn lock_head(conn: &mut PgConnection) -> sqlx::Result<Head> {
    let row: (i64, Vec<u8>) =
        sqlx::query_as("SELECT sequence, hash FROM chain_head FOR UPDATE").fetch_one(conn).await?;
    Ok(into_head(row))
}

fn into_head((sequence, hash): (i64, Vec<u8>)) -> Head {
    let hash: Hash = hash.try_into().unwrap_or_default();
    Head { sequence, hash }
}

/// The organization that the chain's hashes name: the bound one, but for a chain that was restored from another.
pub async fn chain_org(conn: &mut PgConnection, bound: &str) -> sqlx::Result<String> {
    sqlx::query_scalar("SELECT CASE org_id WHEN '' THEN $1 ELSE org_id END FROM chain_head")
        .bind(bound)
        .fetch_one(conn)
        .await
}

/// The chain of another organization becomes the bound one's, with the id that its hashes cover.
pub async fn adopt_chain(conn: &mut PgConnection, from: &str) -> sqlx::Result<()> {
    sqlx::query("UPDATE chain_head SET org_id = $1 WHERE org_id = ''").bind(from).execute(conn).await?;
    Ok(())
}

/// Which of these ids are kept already.
pub async fn known(conn: &mut PgConnection, ids: &[String]) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar("SELECT id FROM events WHERE id = ANY($1)").bind(ids).fetch_all(conn).await
}

/// Appends events that have their place already, and moves the head. The head must be locked.
pub async fn append(
    conn: &mut PgConnection,
    events: &[Event],
    head: Head,
    recorded_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    let mut query = QueryBuilder::new(
        "INSERT INTO events (sequence, id, occurred_at, recorded_at, actor_kind, actor_id, action, target_kind, \
         target_id, outcome, request_id, service, details, prev_hash, hash) ",
    );
    query.push_values(events, |mut row, e| {
        row.push_bind(e.sequence)
            .push_bind(&e.id)
            .push_bind(e.occurred_at)
            .push_bind(recorded_at)
            .push_bind(&e.actor_kind)
            .push_bind(&e.actor_id)
            .push_bind(&e.action)
            .push_bind(&e.target_kind)
            .push_bind(&e.target_id)
            .push_bind(&e.outcome)
            .push_bind(&e.request_id)
            .push_bind(&e.service)
            .push_bind(Json(&e.details))
            .push_bind(hex::decode(&e.prev_hash).unwrap_or_default())
            .push_bind(hex::decode(&e.hash).unwrap_or_default());
    });
    // The text differs with the number of rows: caching each would only push better plans out.
    query.build().persistent(false).execute(&mut *conn).await?;
    sqlx::query("UPDATE chain_head SET sequence = $1, hash = $2")
        .bind(head.sequence)
        .bind(head.hash.as_slice())
        .execute(conn)
        .await?;
    Ok(())
}

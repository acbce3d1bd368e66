//! Agents with their Sprites, as the tenant sees them.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};

use crate::domain::agent::Config;

/// An agent and its Sprite.
#[derive(Clone, Debug, FromRow)]
pub struct AgentRow {
    /// `agent_…`
    pub id: String,
    /// Unique among the living.
    pub handle: String,
    /// Display name.
    pub name: String,
    /// `active`, `paused` or `deleted`.
    pub state: String,
    /// What it does.
    pub config: Json<Config>,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// Last change.
    pub updated_at: DateTime<Utc>,
    /// Its Sprite.
    pub sprite_id: String,
    /// The Sprite's state.
    pub sprite_state: String,
    /// `local`, …
    pub sprite_provider: String,
    /// Since when in that state.
    pub sprite_changed_at: DateTime<Utc>,
    /// Why.
    pub sprite_reason: String,
}

/// Adds an agent and its Sprite.
pub async fn insert(conn: &mut PgConnection, a: &AgentRow) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO agents (id, handle, name, state, config, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $6)",
    )
    .bind(&a.id)
    .bind(&a.handle)
    .bind(&a.name)
    .bind(&a.state)
    .bind(&a.config)
    .bind(a.created_at)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "INSERT INTO sprites (id, agent_id, state, provider, changed_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&a.sprite_id)
    .bind(&a.id)
    .bind(&a.sprite_state)
    .bind(&a.sprite_provider)
    .bind(a.created_at)
    .execute(&mut *conn)
    .await?;
    sqlx::query("SELECT control.sprite_put($1, $2, $3, $4)")
        .bind(&a.sprite_id)
        .bind(&a.id)
        .bind(i32::try_from(a.config.slots()).unwrap_or(1))
        .bind(a.created_at)
        .execute(conn)
        .await?;
    Ok(())
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT a.id, a.handle, a.name, a.state, a.config, a.created_at, a.updated_at, s.id AS sprite_id, ",
            "s.state AS sprite_state, s.provider AS sprite_provider, s.changed_at AS sprite_changed_at, ",
            "s.reason AS sprite_reason FROM agents a JOIN sprites s ON s.agent_id = a.id WHERE a.state <> 'deleted' ",
            $rest
        )
    };
}

/// One living agent.
pub async fn get(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<AgentRow>> {
    sqlx::query_as(select!("AND a.id = $1")).bind(id).fetch_optional(conn).await
}

/// One living agent, locked.
pub async fn lock(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<AgentRow>> {
    sqlx::query_as(select!("AND a.id = $1 FOR UPDATE OF a")).bind(id).fetch_optional(conn).await
}

/// One living agent, which can't be deleted until the transaction ends: work for it is not left to nobody.
pub async fn hold(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<AgentRow>> {
    sqlx::query_as(select!("AND a.id = $1 FOR SHARE OF a")).bind(id).fetch_optional(conn).await
}

/// Living agents after an id.
pub async fn list(conn: &mut PgConnection, after: &str, limit: i64) -> sqlx::Result<Vec<AgentRow>> {
    sqlx::query_as(select!("AND a.id > $1 ORDER BY a.id LIMIT $2"))
        .bind(after)
        .bind(limit)
        .fetch_all(conn)
        .await
}

/// Those that get a secret, after an id.
pub async fn with_secret(
    conn: &mut PgConnection,
    secret: &str,
    after: &str,
    limit: i64,
) -> sqlx::Result<Vec<AgentRow>> {
    sqlx::query_as(select!("AND a.id > $1 AND a.config -> 'secrets' ? $3 ORDER BY a.id LIMIT $2"))
        .bind(after)
        .bind(limit)
        .bind(secret)
        .fetch_all(conn)
        .await
}

/// Writes a locked agent back.
pub async fn save(conn: &mut PgConnection, a: &AgentRow) -> sqlx::Result<()> {
    sqlx::query("UPDATE agents SET name = $2, state = $3, config = $4, updated_at = $5 WHERE id = $1")
        .bind(&a.id)
        .bind(&a.name)
        .bind(&a.state)
        .bind(&a.config)
        .bind(a.updated_at)
        .execute(&mut *conn)
        .await?;
    if a.state == "deleted" {
        sqlx::query("SELECT control.sprite_destroy($1)").bind(&a.id).execute(conn).await?;
    } else {
        sqlx::query("SELECT control.sprite_set($1, $2, $3)")
            .bind(&a.id)
            .bind(a.state == "paused")
            .bind(i32::try_from(a.config.slots()).unwrap_or(1))
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Notes that a slot is asked for, before it is. Looks at the tenant's own table, so that it waits for a move of it.
pub async fn claim_slot(conn: &mut PgConnection, agent: &str, at: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("SELECT control.agent_claim($1, $2) FROM (SELECT count(*) FROM agents WHERE false) none")
        .bind(agent)
        .bind(at)
        .execute(conn)
        .await?;
    Ok(())
}

/// The slot is used, or given back.
pub async fn unclaim_slot(conn: &mut PgConnection, agent: &str) -> sqlx::Result<()> {
    sqlx::query("SELECT control.agent_unclaim($1)").bind(agent).execute(conn).await?;
    Ok(())
}

/// Slots asked for before `before` that nobody finished, in `control`: (agent, tenant number).
pub async fn stale_claims(
    conn: &mut PgConnection,
    before: DateTime<Utc>,
) -> sqlx::Result<Vec<(String, i64)>> {
    sqlx::query_as("SELECT agent_id, tenant_number FROM agent_claims WHERE created_at < $1 LIMIT 100")
        .bind(before)
        .fetch_all(conn)
        .await
}

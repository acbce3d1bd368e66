//! The directory of organizations' lives, in `control`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, FromRow, PgConnection};

/// An organization.
#[derive(Clone, Debug, Default, FromRow)]
pub struct OrgsRow {
    /// `org_…`
    pub id: String,
    /// Unique; the id once it is purged.
    pub slug: String,
    /// Name as created.
    pub name: String,
    /// Its id in a system of the owner's, as created.
    pub external_id: String,
    /// The first owner.
    pub created_by: String,
    /// See [`crate::domain::life::State`].
    pub state: String,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// The request that asked for it, when it had an `Idempotency-Key`.
    pub asked_with: Option<Vec<u8>>,
    /// Since when it is suspended.
    pub suspended_at: Option<DateTime<Utc>>,
    /// Why.
    pub suspended_because: String,
    /// When its deletion was asked for.
    pub deletion_requested_at: Option<DateTime<Utc>>,
    /// By whom.
    pub deletion_requested_by: String,
    /// Not before then.
    pub purge_after: Option<DateTime<Utc>>,
    /// Since when a legal hold keeps it.
    pub held_at: Option<DateTime<Utc>>,
    /// The operator who set it.
    pub held_by: String,
    /// Why.
    pub held_because: String,
    /// Who owned it when its purge began.
    pub purge_owners: Json<Vec<Owner>>,
    /// Counts up with each change that the other services must hear of.
    pub state_version: i64,
    /// The digest of the backup that is being put back.
    pub restoring: Option<Vec<u8>>,
}

/// Somebody who owned a purged organization.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, FromRow)]
pub struct Owner {
    /// `user_…`
    pub id: String,
    /// Where the receipt goes.
    pub email: String,
}

const COLUMNS: &str = "id, slug, name, external_id, created_by, state, created_at, asked_with, suspended_at, suspended_because, \
     deletion_requested_at, deletion_requested_by, purge_after, held_at, held_by, held_because, purge_owners, state_version, \
     restoring";

fn select(rest: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("SELECT {COLUMNS} FROM orgs {rest}"))
}

/// Takes a slug for a new organization; the one that has it already, when it is taken. None: its former owner still has it.
pub async fn reserve(conn: &mut PgConnection, org: &OrgsRow) -> sqlx::Result<Option<OrgsRow>> {
    let made = sqlx::query(
        "WITH creator AS (SELECT FROM users WHERE id = $4 AND deleted_at IS NULL FOR SHARE), \
            took AS (INSERT INTO slugs AS s (slug, org_id) SELECT $2, $1 FROM creator ON CONFLICT (slug) \
            DO UPDATE SET org_id = excluded.org_id, held_until = NULL WHERE s.held_until <= $5 RETURNING slug) \
         INSERT INTO orgs (id, slug, name, created_by, state, created_at, asked_with, external_id) \
         SELECT $1, slug, $3, $4, 'provisioning', $5, $6, $7 FROM took",
    )
    .bind(&org.id)
    .bind(&org.slug)
    .bind(&org.name)
    .bind(&org.created_by)
    .bind(org.created_at)
    .bind(&org.asked_with)
    .bind(&org.external_id)
    .execute(&mut *conn)
    .await?;
    if made.rows_affected() == 1 {
        return Ok(Some(org.clone()));
    }
    sqlx::query_as(select("WHERE slug = $1")).bind(&org.slug).fetch_optional(conn).await
}

/// Takes one more slug for an organization, or back an old one of its own; whether it is free for it.
pub async fn take_slug(
    conn: &mut PgConnection,
    org: &str,
    slug: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "INSERT INTO slugs AS s (slug, org_id) VALUES ($2, $1) ON CONFLICT (slug) \
         DO UPDATE SET org_id = excluded.org_id, held_until = NULL WHERE s.org_id = $1 OR s.held_until <= $3",
    )
    .bind(org)
    .bind(slug)
    .bind(now)
    .execute(&mut *conn)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query("UPDATE orgs SET slug = $2 WHERE id = $1").bind(org).bind(slug).execute(conn).await?;
    Ok(true)
}

/// How many slugs lead to an organization.
pub async fn count_slugs(conn: &mut PgConnection, org: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar("SELECT count(*) FROM slugs WHERE org_id = $1").bind(org).fetch_one(conn).await
}

/// A member's organization by a slug that it has or had: (id, the slug it has).
pub async fn by_slug(
    conn: &mut PgConnection,
    slug: &str,
    user: &str,
) -> sqlx::Result<Option<(String, String)>> {
    sqlx::query_as(
        "SELECT o.id, o.slug FROM slugs s JOIN orgs o ON o.id = s.org_id \
         JOIN memberships m ON m.org_id = o.id AND m.user_id = $2 \
         WHERE s.slug = $1 AND o.state IN ('active', 'suspended', 'deleting')",
    )
    .bind(slug)
    .bind(user)
    .fetch_optional(conn)
    .await
}

/// The organization that a slug leads to, now or once, while there is one for anybody.
pub async fn id_of_slug(conn: &mut PgConnection, slug: &str) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar(
        "SELECT o.id FROM slugs s JOIN orgs o ON o.id = s.org_id \
         WHERE s.slug = $1 AND o.state IN ('active', 'suspended', 'deleting')",
    )
    .bind(slug)
    .fetch_optional(conn)
    .await
}

/// One organization.
pub async fn get(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<OrgsRow>> {
    sqlx::query_as(select("WHERE id = $1")).bind(id).fetch_optional(conn).await
}

/// One organization, kept from changing until the transaction ends.
pub async fn lock(conn: &mut PgConnection, id: &str) -> sqlx::Result<Option<OrgsRow>> {
    sqlx::query_as(select("WHERE id = $1 FOR UPDATE")).bind(id).fetch_optional(conn).await
}

/// Writes a locked organization's life back.
pub async fn save_life(conn: &mut PgConnection, org: &OrgsRow) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE orgs SET state = $2, suspended_at = $3, suspended_because = $4, deletion_requested_at = $5, \
            deletion_requested_by = $6, purge_after = $7, held_at = $8, held_by = $9, held_because = $10, \
            purge_owners = $11, state_version = $12 WHERE id = $1",
    )
    .bind(&org.id)
    .bind(&org.state)
    .bind(org.suspended_at)
    .bind(&org.suspended_because)
    .bind(org.deletion_requested_at)
    .bind(&org.deletion_requested_by)
    .bind(org.purge_after)
    .bind(org.held_at)
    .bind(&org.held_by)
    .bind(&org.held_because)
    .bind(&org.purge_owners)
    .bind(org.state_version)
    .execute(conn)
    .await?;
    Ok(())
}

/// All schemas are there.
pub async fn activate(conn: &mut PgConnection, id: &str) -> sqlx::Result<()> {
    sqlx::query("UPDATE orgs SET state = 'active' WHERE id = $1 AND state = 'provisioning'")
        .bind(id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether an organization of this person's is being created. In the transaction that locks the person, no other begins.
pub async fn creating(conn: &mut PgConnection, user: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM orgs WHERE created_by = $1 AND state = 'provisioning')")
        .bind(user)
        .fetch_one(conn)
        .await
}

/// How many organizations a locked person owns, with those that are being created: none is begun meanwhile.
pub async fn owned(conn: &mut PgConnection, user: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM memberships m JOIN orgs o ON o.id = m.org_id WHERE m.user_id = $1 AND m.role = 'owner' \
            AND o.state IN ('active', 'suspended', 'deleting')) + \
         (SELECT count(*) FROM orgs WHERE created_by = $1 AND state = 'provisioning')",
    )
    .bind(user)
    .fetch_one(conn)
    .await
}

/// Left half-way: created before `before` and still not active.
pub async fn unfinished(conn: &mut PgConnection, before: DateTime<Utc>) -> sqlx::Result<Vec<OrgsRow>> {
    sqlx::query_as(select("WHERE state = 'provisioning' AND created_at < $1 ORDER BY created_at LIMIT 100"))
        .bind(before)
        .fetch_all(conn)
        .await
}

/// A person's organizations after an id, with their role and state.
pub async fn of_user(
    conn: &mut PgConnection,
    user: &str,
    after: &str,
    limit: i64,
) -> sqlx::Result<Vec<(String, String)>> {
    sqlx::query_as(
        "SELECT o.id, m.role FROM memberships m JOIN orgs o ON o.id = m.org_id \
         WHERE m.user_id = $1 AND o.state IN ('active', 'suspended', 'deleting') AND o.id > $2 ORDER BY o.id LIMIT $3",
    )
    .bind(user)
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// Where somebody is a member.
#[derive(Clone, Debug, FromRow)]
pub struct Membership {
    /// `org_…`
    pub org_id: String,
    /// Its slug.
    pub slug: String,
    /// Its state.
    pub state: String,
    /// Their role.
    pub role: String,
}

/// All of a person's memberships, by organization.
pub async fn memberships(conn: &mut PgConnection, user: &str) -> sqlx::Result<Vec<Membership>> {
    sqlx::query_as(
        "SELECT o.id AS org_id, o.slug, o.state, m.role FROM memberships m JOIN orgs o ON o.id = m.org_id \
         WHERE m.user_id = $1 AND o.state IN ('active', 'suspended', 'deleting') ORDER BY o.id",
    )
    .bind(user)
    .fetch_all(conn)
    .await
}

/// Those whose new state not all services heard of.
pub async fn untold(conn: &mut PgConnection) -> sqlx::Result<Vec<OrgsRow>> {
    sqlx::query_as(select("WHERE told_version < state_version ORDER BY id LIMIT 100")).fetch_all(conn).await
}

/// All services heard of it.
pub async fn told(conn: &mut PgConnection, id: &str, version: i64) -> sqlx::Result<()> {
    sqlx::query("UPDATE orgs SET told_version = $2 WHERE id = $1 AND told_version < $2")
        .bind(id)
        .bind(version)
        .execute(conn)
        .await?;
    Ok(())
}

/// Those whose time has come, and those whose purge has begun.
pub async fn to_purge(conn: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<Vec<OrgsRow>> {
    sqlx::query_as(select(
        "WHERE state = 'purging' OR (state = 'deleting' AND purge_after <= $1 AND held_at IS NULL) ORDER BY id LIMIT 20",
    ))
    .bind(now)
    .fetch_all(conn)
    .await
}

/// An organization is about to be put back from a backup: until then it is suspended. A new one takes its slug. Whether it
/// may: over itself (`its_own`), or as another one, that there is not yet or that an interrupted restore of the same archive
/// (its digest) began.
pub async fn begin_restore(
    conn: &mut PgConnection,
    org: &OrgsRow,
    archive: &[u8],
    its_own: bool,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    if let Some(mut there) = lock(conn, &org.id).await? {
        let begun = there.restoring.as_deref() == Some(archive) && there.slug == org.slug;
        let living =
            matches!(there.state.as_str(), "active" | "suspended" | "deleting") && (its_own || begun);
        // One that is suspended for another reason stays so afterwards.
        if living && there.suspended_at.is_none() {
            there.suspended_at = Some(now);
            RESTORING.clone_into(&mut there.suspended_because);
            if there.state == "active" {
                "suspended".clone_into(&mut there.state);
            }
            there.state_version += 1;
            save_life(conn, &there).await?;
        }
        if living {
            sqlx::query("UPDATE orgs SET restoring = $2 WHERE id = $1")
                .bind(&org.id)
                .bind(archive)
                .execute(conn)
                .await?;
        }
        return Ok(living);
    }
    let made = sqlx::query(
        "WITH took AS (INSERT INTO slugs AS s (slug, org_id) VALUES ($2, $1) ON CONFLICT (slug) \
            DO UPDATE SET org_id = excluded.org_id, held_until = NULL WHERE s.held_until <= $5 RETURNING slug) \
         INSERT INTO orgs (id, slug, name, created_by, state, created_at, suspended_at, suspended_because, state_version, restoring) \
         SELECT $1, slug, $3, $4, 'suspended', $5, $5, $6, 1, $7 FROM took",
    )
    .bind(&org.id)
    .bind(&org.slug)
    .bind(&org.name)
    .bind(&org.created_by)
    .bind(now)
    .bind(RESTORING)
    .bind(archive)
    .execute(conn)
    .await?;
    Ok(made.rows_affected() == 1)
}

/// Why an organization that is being put back is suspended.
pub const RESTORING: &str = "It is being restored from a backup.";

/// A copy was refused before it had anything: nothing is left of it.
pub async fn give_up_copy(conn: &mut PgConnection, id: &str, archive: &[u8]) -> sqlx::Result<()> {
    sqlx::query("SELECT control.copy_given_up($1, $2)").bind(id).bind(archive).execute(conn).await?;
    Ok(())
}

/// It is back. The services hear of its state in any case: what was put back knows none.
pub async fn end_restore(conn: &mut PgConnection, id: &str) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE orgs SET state_version = state_version + 1, restoring = NULL, \
            state = CASE WHEN state = 'suspended' AND suspended_because = $2 THEN 'active' ELSE state END, \
            suspended_at = CASE suspended_because WHEN $2 THEN NULL ELSE suspended_at END, \
            suspended_because = CASE suspended_because WHEN $2 THEN '' ELSE suspended_because END WHERE id = $1",
    )
    .bind(id)
    .bind(RESTORING)
    .execute(conn)
    .await?;
    Ok(())
}

/// Nothing is left of a purged organization but its id, its times and the slugs that nobody may take over until then.
pub async fn forget(conn: &mut PgConnection, id: &str, held_until: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE orgs SET state = 'purged', slug = id, name = '', external_id = '', suspended_because = '', purge_owners = '[]', \
         asked_with = NULL WHERE id = $1",
    )
    .bind(id)
    .execute(&mut *conn)
    .await?;
    sqlx::query("UPDATE slugs SET held_until = $2 WHERE org_id = $1")
        .bind(id)
        .bind(held_until)
        .execute(conn)
        .await?;
    Ok(())
}

/// Slugs of purged organizations that were kept for long enough are anybody's.
pub async fn free_slugs(conn: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM slugs WHERE held_until <= $1").bind(now).execute(conn).await?;
    Ok(())
}

/// Deletes events of a purged organization that no log took; answers how many.
pub async fn drop_dead_events(conn: &mut PgConnection, id: &str) -> sqlx::Result<i64> {
    let done = sqlx::query("DELETE FROM outbox WHERE topic = 'audit' AND key = $1 AND dead_at IS NOT NULL")
        .bind(id)
        .execute(conn)
        .await?;
    Ok(i64::try_from(done.rows_affected()).unwrap_or(i64::MAX))
}

/// Whether events of an organization still wait in `control`'s outbox.
pub async fn has_events(conn: &mut PgConnection, id: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM outbox WHERE topic = 'audit' AND key = $1 AND dead_at IS NULL)",
    )
    .bind(id)
    .fetch_one(conn)
    .await
}

//! An organization is put back from a backup while it lives: its data is of then, who may enter is of now. A key that was
//! revoked stays revoked, who was removed stays away, and who owns it owns it.

use sqlx::PgConnection;

/// Who may enter now, in temporary tables.
pub async fn note(conn: &mut PgConnection, org: &str) -> sqlx::Result<()> {
    for sql in [
        "CREATE TEMPORARY TABLE living_memberships ON COMMIT DROP AS \
         SELECT user_id, role FROM control.memberships WHERE org_id = $1",
        "CREATE TEMPORARY TABLE living_ends ON COMMIT DROP AS \
         SELECT user_id, ended_at FROM control.membership_ends WHERE org_id = $1",
        "CREATE TEMPORARY TABLE living_keys ON COMMIT DROP AS \
         SELECT key_id FROM control.credentials WHERE org_id = $1 AND revoked_at IS NULL",
        "CREATE TEMPORARY TABLE living_domains ON COMMIT DROP AS SELECT name FROM control.domains WHERE org_id = $1",
    ] {
        // PostgreSQL takes no parameters in a CREATE TABLE AS; an organization's id holds letters and digits only.
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.replace("$1", &format!("'{org}'"))))
            .execute(&mut *conn)
            .await?;
    }
    for sql in [
        "CREATE TEMPORARY TABLE living_members ON COMMIT DROP AS SELECT * FROM members",
        "CREATE TEMPORARY TABLE living_departures ON COMMIT DROP AS SELECT * FROM departures",
        "CREATE TEMPORARY TABLE living_invitations ON COMMIT DROP AS SELECT id FROM invitations WHERE state = 'pending'",
    ] {
        sqlx::raw_sql(sql).execute(&mut *conn).await?;
    }
    Ok(())
}

/// The same people and keys may enter as before, and nobody else.
pub async fn keep(conn: &mut PgConnection, org: &str) -> sqlx::Result<()> {
    for sql in [
        "DELETE FROM members WHERE user_id NOT IN (SELECT user_id FROM pg_temp.living_members)",
        "UPDATE members m SET role = l.role FROM pg_temp.living_members l WHERE l.user_id = m.user_id AND l.role <> m.role",
        "INSERT INTO members SELECT * FROM pg_temp.living_members ON CONFLICT DO NOTHING",
        "INSERT INTO departures SELECT * FROM pg_temp.living_departures \
         ON CONFLICT (who) DO UPDATE SET removed = departures.removed OR excluded.removed",
        "DELETE FROM departures WHERE who IN (SELECT user_id FROM members)",
        "UPDATE keys SET revoked_at = now() \
         WHERE revoked_at IS NULL AND id NOT IN (SELECT key_id FROM pg_temp.living_keys)",
        "UPDATE invitations SET state = 'revoked' \
         WHERE state = 'pending' AND id NOT IN (SELECT id FROM pg_temp.living_invitations)",
    ] {
        sqlx::raw_sql(sql).execute(&mut *conn).await?;
    }
    for sql in [
        "DELETE FROM control.memberships WHERE org_id = $1",
        "INSERT INTO control.memberships (user_id, org_id, role) SELECT user_id, $1, role FROM pg_temp.living_memberships",
        "INSERT INTO control.membership_ends (user_id, org_id, ended_at) SELECT user_id, $1, ended_at FROM pg_temp.living_ends \
         ON CONFLICT (user_id, org_id) DO UPDATE SET ended_at = excluded.ended_at",
        "UPDATE control.credentials SET revoked_at = now() WHERE org_id = $1 AND revoked_at IS NULL \
         AND key_id NOT IN (SELECT key_id FROM pg_temp.living_keys)",
        "DELETE FROM control.domains WHERE org_id = $1 AND name NOT IN (SELECT name FROM pg_temp.living_domains)",
    ] {
        sqlx::query(sql).bind(org).execute(&mut *conn).await?;
    }
    Ok(())
}

/// A domain that is another organization's now, or nobody's, is to be shown anew.
pub async fn unverify_lost_domains(conn: &mut PgConnection, org: &str) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE domains SET verified_at = NULL, joining = 'manual', token = md5(gen_random_uuid()::text) \
         WHERE verified_at IS NOT NULL AND name NOT IN (SELECT name FROM control.domains WHERE org_id = $1)",
    )
    .bind(org)
    .execute(conn)
    .await?;
    Ok(())
}

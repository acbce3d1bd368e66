-- Whose account ends at this moment becomes no member: the two wait for each other, and the second one is refused.
CREATE OR REPLACE FUNCTION control.member_put(member text, new_role text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM FROM control.users WHERE id = member AND deleted_at IS NULL FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the account has ended' USING ERRCODE = 'serialization_failure';
    END IF;
    INSERT INTO control.memberships (user_id, org_id, role) VALUES (member, control.bound_org(), new_role)
    ON CONFLICT (user_id, org_id) DO UPDATE SET role = excluded.role;
END $$;
-- Slugs of purged organizations are given up in the end.
GRANT DELETE ON control.slugs TO {control};
-- A personal key ends for an organization with the membership: who is asked in again makes a new one.
CREATE TABLE control.membership_ends (
    user_id  text        NOT NULL,
    org_id   text        NOT NULL,
    ended_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, org_id)
);
CREATE INDEX membership_ends_org ON control.membership_ends (org_id);
GRANT SELECT ON control.membership_ends TO {control};
CREATE OR REPLACE FUNCTION control.member_remove(member text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM control.memberships WHERE user_id = member AND org_id = control.bound_org();
    INSERT INTO control.membership_ends AS e (user_id, org_id, ended_at)
    VALUES (member, control.bound_org(), clock_timestamp())
    ON CONFLICT (user_id, org_id) DO UPDATE SET ended_at = excluded.ended_at
$$;

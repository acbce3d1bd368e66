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

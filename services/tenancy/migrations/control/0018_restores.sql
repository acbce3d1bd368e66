-- The digest of the backup that is being put back: a restore that was interrupted goes on with that one, and until it has
-- ended the organization is not resumed.
ALTER TABLE control.orgs ADD COLUMN restoring bytea;
-- A copy that was refused before it had anything leaves nothing behind.
CREATE FUNCTION control.copy_given_up(copy text, archive bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM FROM control.orgs o WHERE o.id = copy AND o.restoring = archive
        AND NOT EXISTS (SELECT FROM control.tenants t WHERE t.org_id = copy) FOR UPDATE;
    IF FOUND THEN
        DELETE FROM control.data_keys WHERE org_id = copy;
        DELETE FROM control.slugs WHERE org_id = copy;
        DELETE FROM control.orgs WHERE id = copy;
    END IF;
END $$;
REVOKE EXECUTE ON FUNCTION control.copy_given_up FROM PUBLIC;
GRANT EXECUTE ON FUNCTION control.copy_given_up TO {control};

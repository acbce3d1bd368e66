-- What custom roles add, beside the role: computed by the tenant's own transaction whenever a role or who has it changes.
ALTER TABLE control.memberships ADD COLUMN grants text[] NOT NULL DEFAULT '{}';
ALTER TABLE control.credentials ADD COLUMN grants text[] NOT NULL DEFAULT '{}';
CREATE FUNCTION control.member_grants(member text, added text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    UPDATE control.memberships SET grants = added
    WHERE user_id = member AND org_id = control.bound_org() AND grants <> added
$$;
CREATE FUNCTION control.key_grants(key text, added text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    UPDATE control.credentials SET grants = added
    WHERE key_id = key AND org_id = control.bound_org() AND grants <> added
$$;
DROP TRIGGER credentials_changed ON control.credentials;
CREATE TRIGGER credentials_changed
    AFTER UPDATE OF user_id, org_id, role, grants, scopes, expires_at, revoked_at ON control.credentials
    FOR EACH ROW EXECUTE FUNCTION control.tell_credentials('key', 'key_id');

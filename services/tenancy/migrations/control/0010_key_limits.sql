ALTER TABLE control.credentials
    -- Where it may be used from, as CIDR; none: from anywhere.
    ADD COLUMN networks            text[] NOT NULL DEFAULT '{}',
    -- Its own limit below everybody's.
    ADD COLUMN requests_per_minute int    CHECK (requests_per_minute > 0),
    -- How often its owners were told that it ends soon: a week and a day before.
    ADD COLUMN notices             int    NOT NULL DEFAULT 0;
CREATE INDEX credentials_ending ON control.credentials (expires_at) WHERE revoked_at IS NULL AND notices < 2;
-- Beside the one with fewer arguments, which a replica of the version before still calls.
CREATE FUNCTION control.key_put(
    hash bytea, key text, label text, key_role text, key_scopes text[], expiry timestamptz, nets text[], a_minute int, at timestamptz)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO control.credentials
        (sha256, key_id, name, org_id, role, scopes, expires_at, networks, requests_per_minute, created_at)
    VALUES (hash, key, label, control.bound_org(), key_role, key_scopes, expiry, nets, a_minute, at)
$$;
CREATE FUNCTION control.key_change(key text, label text, expiry timestamptz, nets text[], a_minute int) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    UPDATE control.credentials SET name = label, expires_at = expiry, networks = nets, requests_per_minute = a_minute
    WHERE key_id = key AND org_id = control.bound_org()
$$;
DROP TRIGGER credentials_changed ON control.credentials;
CREATE TRIGGER credentials_changed
    AFTER UPDATE OF user_id, org_id, role, grants, scopes, expires_at, revoked_at, networks, requests_per_minute, name
    ON control.credentials FOR EACH ROW EXECUTE FUNCTION control.tell_credentials('key', 'key_id');

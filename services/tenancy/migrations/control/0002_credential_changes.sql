-- Tells gateways which answers about credentials they must forget: `key:…`, `user:…` or `org:…`. Told with the commit of
-- the change, whoever makes it. What only adds (a new key, a new membership) is not told: nobody keeps a refusal.
CREATE FUNCTION control.tell_credentials() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pg_notify('credentials', TG_ARGV[0] || ':' || (to_jsonb(OLD) ->> TG_ARGV[1]));
    RETURN NULL;
END $$;
CREATE TRIGGER credentials_changed AFTER UPDATE OF user_id, org_id, role, scopes, expires_at, revoked_at
    ON control.credentials FOR EACH ROW EXECUTE FUNCTION control.tell_credentials('key', 'key_id');
CREATE TRIGGER credentials_gone AFTER DELETE ON control.credentials
    FOR EACH ROW EXECUTE FUNCTION control.tell_credentials('key', 'key_id');
CREATE TRIGGER memberships_changed AFTER UPDATE OR DELETE ON control.memberships
    FOR EACH ROW EXECUTE FUNCTION control.tell_credentials('user', 'user_id');
CREATE TRIGGER users_changed AFTER UPDATE OR DELETE ON control.users
    FOR EACH ROW EXECUTE FUNCTION control.tell_credentials('user', 'id');
CREATE TRIGGER orgs_changed AFTER UPDATE OF state OR DELETE ON control.orgs
    FOR EACH ROW WHEN (OLD.state = 'active') EXECUTE FUNCTION control.tell_credentials('org', 'id');

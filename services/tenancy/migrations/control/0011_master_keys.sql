-- Which master key wraps an organization's data keys; empty: not known. What is wrapped by another than the newest is found
-- here, without a look into every schema.
CREATE TABLE control.data_keys (
    org_id text PRIMARY KEY,
    master text NOT NULL
);
CREATE INDEX data_keys_master ON control.data_keys (master, org_id);
INSERT INTO control.data_keys (org_id, master) SELECT id, '' FROM control.orgs WHERE state NOT IN ('purging', 'purged');
GRANT SELECT ON control.data_keys TO {control};
-- Also for a replica of the version before, which notes none.
CREATE FUNCTION control.data_key_of_new_org() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO control.data_keys (org_id, master) VALUES (NEW.id, '') ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER orgs_data_key AFTER INSERT ON control.orgs FOR EACH ROW EXECUTE FUNCTION control.data_key_of_new_org();
CREATE FUNCTION control.data_keys_wrapped(by_master text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO control.data_keys (org_id, master) VALUES (control.bound_org(), by_master)
    ON CONFLICT (org_id) DO UPDATE SET master = excluded.master WHERE data_keys.master <> excluded.master
$$;
-- Master keys in the order in which they became somebody's newest. During a rollout replicas differ; only what is the newest
-- of all wraps anew, so that they do not undo each other's work.
CREATE TABLE control.master_keys (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id     text NOT NULL UNIQUE
);
GRANT SELECT, INSERT ON control.master_keys TO {control};

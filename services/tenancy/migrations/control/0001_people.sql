CREATE TABLE control.users (
    id         text        PRIMARY KEY,
    email      text        NOT NULL UNIQUE CHECK (email = lower(email)),
    name       text        NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE control.orgs (
    id         text        PRIMARY KEY,
    slug       text        NOT NULL UNIQUE,
    name       text        NOT NULL,
    created_by text        NOT NULL REFERENCES control.users,
    state      text        NOT NULL CHECK (state IN ('provisioning', 'active')),
    created_at timestamptz NOT NULL
);
CREATE INDEX orgs_provisioning ON control.orgs (created_at) WHERE state = 'provisioning';

-- Copies of what the tenants' own tables say, written in the same transaction: found by person, key or token.
CREATE TABLE control.memberships (
    user_id text NOT NULL,
    org_id  text NOT NULL,
    role    text NOT NULL,
    PRIMARY KEY (user_id, org_id)
);
CREATE TABLE control.credentials (
    sha256       bytea       PRIMARY KEY CHECK (length(sha256) = 32),
    key_id       text        NOT NULL UNIQUE,
    name         text        NOT NULL,
    user_id      text,
    org_id       text,
    role         text,
    scopes       text[],
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    CHECK ((user_id IS NULL) <> (org_id IS NULL))
);
CREATE INDEX credentials_org ON control.credentials (org_id);
CREATE TABLE control.invitation_tokens (
    sha256 bytea PRIMARY KEY CHECK (length(sha256) = 32),
    org_id text  NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON control.users, control.orgs, control.credentials TO {control};
GRANT SELECT ON control.memberships, control.invitation_tokens TO {control};

-- In all of these the organization comes from the bound role.
CREATE FUNCTION control.bound_org() RETURNS text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT org_id FROM control.tenants WHERE number = control.bound_tenant()
$$;
CREATE FUNCTION control.member_put(member text, new_role text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO control.memberships (user_id, org_id, role) VALUES (member, control.bound_org(), new_role)
    ON CONFLICT (user_id, org_id) DO UPDATE SET role = excluded.role
$$;
CREATE FUNCTION control.member_remove(member text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM control.memberships WHERE user_id = member AND org_id = control.bound_org()
$$;
CREATE FUNCTION control.key_put(hash bytea, key text, label text, key_role text, key_scopes text[], expiry timestamptz)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO control.credentials (sha256, key_id, name, org_id, role, scopes, expires_at)
    VALUES (hash, key, label, control.bound_org(), key_role, key_scopes, expiry)
$$;
CREATE FUNCTION control.key_revoke(key text, at timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    UPDATE control.credentials SET revoked_at = at
    WHERE key_id = key AND org_id = control.bound_org() AND revoked_at IS NULL
$$;
CREATE FUNCTION control.keys_last_used(keys text[]) RETURNS TABLE (key_id text, last_used_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
    SELECT c.key_id, c.last_used_at FROM control.credentials c
    WHERE c.key_id = ANY (keys) AND c.org_id = control.bound_org()
$$;
CREATE FUNCTION control.invitation_put(hash bytea) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO control.invitation_tokens (sha256, org_id) VALUES (hash, control.bound_org())
$$;

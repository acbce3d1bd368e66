-- Which organization an installation of our App belongs to. Never re-bound silently: the primary key refuses it.
CREATE TABLE control.github_installations (
    installation_id bigint      PRIMARY KEY,
    tenant_number   bigint      NOT NULL,
    org_id          text        NOT NULL,
    integration_id  text        NOT NULL UNIQUE,
    suspended       boolean     NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL
);
GRANT SELECT ON control.github_installations TO {control};

-- The `state` of an install flow that was begun: good once, for one organization and one person.
CREATE TABLE control.github_states (
    sha256     bytea       PRIMARY KEY CHECK (length(sha256) = 32),
    org_id     text        NOT NULL,
    actor      jsonb       NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);
GRANT SELECT, INSERT, UPDATE, DELETE ON control.github_states TO {control};

-- Webhooks as they arrived. `body` is dropped once the work is done; the id stays, so that a replay is known.
CREATE TABLE control.github_deliveries (
    delivery_id  text        PRIMARY KEY,
    event        text        NOT NULL,
    body         bytea,
    trace        text        NOT NULL,
    received_at  timestamptz NOT NULL,
    leased_until timestamptz,
    attempts     int         NOT NULL DEFAULT 0,
    done_at      timestamptz,
    result       text
);
CREATE INDEX github_deliveries_open ON control.github_deliveries (received_at) WHERE done_at IS NULL;
GRANT SELECT, INSERT, UPDATE, DELETE ON control.github_deliveries TO {control};

CREATE FUNCTION control.github_bind(installation bigint, integration text, at timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO control.github_installations (installation_id, tenant_number, org_id, integration_id, created_at)
    SELECT installation, number, org_id, integration, at FROM control.tenants WHERE number = control.bound_tenant()
$$;
CREATE FUNCTION control.github_unbind(integration text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM control.github_installations WHERE integration_id = integration AND tenant_number = control.bound_tenant()
$$;
CREATE FUNCTION control.github_suspend(integration text, now_suspended boolean) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    UPDATE control.github_installations SET suspended = now_suspended
    WHERE integration_id = integration AND tenant_number = control.bound_tenant()
$$;

-- What every service's `control` schema has: the directory of tenants, and what must be found across them.
CREATE TABLE control.tenants (
    number         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    org_id         text UNIQUE,
    database       text        NOT NULL DEFAULT current_database(),
    schema_version int         NOT NULL DEFAULT 0,
    state          text        NOT NULL CHECK (state IN ('building', 'spare', 'active', 'suspended', 'deleted')),
    created_at     timestamptz NOT NULL DEFAULT now(),
    claimed_at     timestamptz,
    CHECK ((org_id IS NULL) = (state IN ('building', 'spare')))
);
CREATE INDEX tenants_spare ON control.tenants (number) WHERE state = 'spare';
CREATE INDEX tenants_version ON control.tenants (schema_version) WHERE state <> 'building';
GRANT SELECT, UPDATE ON control.tenants TO {control};

CREATE TABLE control.outbox (
    seq             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id              text        NOT NULL UNIQUE,
    topic           text        NOT NULL,
    key             text        NOT NULL,
    payload         bytea       NOT NULL,
    request_id      text        NOT NULL,
    trace           text        NOT NULL,
    created_at      timestamptz NOT NULL,
    attempts        int         NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,
    leased_until    timestamptz,
    last_error      text,
    dead_at         timestamptz
);
CREATE INDEX outbox_key ON control.outbox (topic, key, seq) WHERE dead_at IS NULL;
GRANT SELECT, INSERT, UPDATE, DELETE ON control.outbox TO {control};

-- One row a push, never one a tenant: concurrent transactions of one tenant do not wait for each other here.
CREATE TABLE control.outbox_due (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_number bigint      NOT NULL,
    due_at        timestamptz NOT NULL,
    leased_until  timestamptz
);
CREATE INDEX outbox_due_at ON control.outbox_due (due_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON control.outbox_due TO {control};

-- The number of the bound tenant. It comes from the role that the transaction is bound to, never from an argument.
CREATE FUNCTION control.bound_tenant() RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    number bigint := substring(current_setting('role') FROM '_t([0-9]+)$')::bigint;
BEGIN
    IF number IS NULL THEN
        RAISE EXCEPTION 'no tenant is bound' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN number;
END $$;

-- Notes that the bound tenant's outbox has something due; 0 is control's own outbox.
CREATE FUNCTION control.outbox_mark(due timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO control.outbox_due (tenant_number, due_at)
    VALUES (CASE WHEN current_setting('role') = 'none' THEN 0 ELSE control.bound_tenant() END, due)
$$;

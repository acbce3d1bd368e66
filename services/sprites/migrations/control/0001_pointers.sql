-- One row a job that is not at its end: where it is, what it waits for, and when to look.
CREATE TABLE control.job_pointers (
    job_id        text        PRIMARY KEY,
    tenant_number bigint      NOT NULL,
    agent_id      text        NOT NULL,
    kind          text        NOT NULL CHECK (kind IN ('queued', 'ready', 'leased', 'blocked')),
    due_at        timestamptz NOT NULL
);
CREATE INDEX job_pointers_due ON control.job_pointers (kind, due_at);
CREATE INDEX job_pointers_agent ON control.job_pointers (agent_id, kind);
GRANT SELECT, UPDATE ON control.job_pointers TO {control};

-- One row a Sprite. `phase` is written before the provider is asked: after a crash the step is repeated.
CREATE TABLE control.sprites (
    id            text        PRIMARY KEY,
    tenant_number bigint      NOT NULL,
    org_id        text        NOT NULL,
    agent_id      text        NOT NULL UNIQUE,
    phase         text        NOT NULL CHECK (phase IN ('provisioning', 'stopped', 'starting', 'running', 'stopping', 'destroying')),
    paused        boolean     NOT NULL DEFAULT false,
    concurrency   int         NOT NULL DEFAULT 1,
    generation    bigint      NOT NULL DEFAULT 0,
    token_sha256  bytea       UNIQUE CHECK (length(token_sha256) = 32),
    failures      int         NOT NULL DEFAULT 0,
    next_try_at   timestamptz NOT NULL,
    active_at     timestamptz NOT NULL,
    -- When its runner last asked for work.
    asked_at      timestamptz
);
GRANT SELECT, UPDATE, DELETE ON control.sprites TO {control};

-- Agents whose slot was asked for and whose row may not have been written: given back when it was not.
CREATE TABLE control.agent_claims (
    agent_id      text        PRIMARY KEY,
    tenant_number bigint      NOT NULL,
    created_at    timestamptz NOT NULL
);
GRANT SELECT, DELETE ON control.agent_claims TO {control};

-- In all of these the tenant comes from the bound role.
CREATE FUNCTION control.jobs_point(ids text[], agents text[], new_kind text, due timestamptz[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO control.job_pointers (job_id, tenant_number, agent_id, kind, due_at)
    SELECT u.id, control.bound_tenant(), u.agent, new_kind, u.due FROM unnest(ids, agents, due) AS u (id, agent, due)
    ON CONFLICT (job_id) DO UPDATE SET kind = excluded.kind, due_at = excluded.due_at
    WHERE job_pointers.tenant_number = excluded.tenant_number
$$;
CREATE FUNCTION control.jobs_unpoint(ids text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM control.job_pointers WHERE job_id = ANY (ids) AND tenant_number = control.bound_tenant()
$$;
CREATE FUNCTION control.sprite_put(sprite text, agent text, slots int, at timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO control.sprites (id, tenant_number, org_id, agent_id, phase, concurrency, next_try_at, active_at)
    SELECT sprite, number, org_id, agent, 'provisioning', slots, at, at FROM control.tenants
    WHERE number = control.bound_tenant()
$$;
CREATE FUNCTION control.sprite_set(agent text, is_paused boolean, slots int) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    UPDATE control.sprites SET paused = is_paused, concurrency = slots
    WHERE agent_id = agent AND tenant_number = control.bound_tenant()
$$;
CREATE FUNCTION control.sprite_destroy(agent text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    UPDATE control.sprites SET phase = 'destroying', token_sha256 = NULL
    WHERE agent_id = agent AND tenant_number = control.bound_tenant()
$$;
CREATE FUNCTION control.agent_claim(agent text, at timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO control.agent_claims (agent_id, tenant_number, created_at) VALUES (agent, control.bound_tenant(), at)
$$;
CREATE FUNCTION control.agent_unclaim(agent text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM control.agent_claims WHERE agent_id = agent AND tenant_number = control.bound_tenant()
$$;

-- Plans are data: new numbers are a new version, and a subscription keeps the version it was made with.
CREATE TABLE control.plans (
    id              text     NOT NULL,
    version         int      NOT NULL,
    name            text     NOT NULL,
    rank            int      NOT NULL,
    agents_limit    bigint   CHECK (agents_limit >= 0),
    jobs_limit      bigint   CHECK (jobs_limit >= 0),
    api_calls_limit bigint   CHECK (api_calls_limit >= 0),
    features        text[]   NOT NULL,
    price_cents     bigint   CHECK (price_cents >= 0),
    currency        text     NOT NULL,
    PRIMARY KEY (id, version)
);
INSERT INTO control.plans (id, version, name, rank, agents_limit, jobs_limit, api_calls_limit, features, price_cents, currency) VALUES
    ('free',       1, 'Free',       1, 1,    100,   100000,   '{}',                                             0,    'usd'),
    ('pro',        1, 'Pro',        2, 5,    1000,  1000000,  '{overage_alerts}',                               4900, 'usd'),
    ('team',       1, 'Team',       3, 20,   10000, 10000000, '{overage_alerts,sso}',                           19900,'usd'),
    ('enterprise', 1, 'Enterprise', 4, NULL, NULL,  NULL,     '{overage_alerts,sso,scim,audit_export,dedicated_pool}', NULL, 'usd');
GRANT SELECT ON control.plans TO {control};

-- What will have to be given back, found across tenants. Append-only: tenants never wait for each other here.
CREATE TABLE control.expiry_due (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_number bigint      NOT NULL,
    due_at        timestamptz NOT NULL
);
CREATE INDEX expiry_due_at ON control.expiry_due (due_at);
GRANT SELECT, DELETE ON control.expiry_due TO {control};

-- The tenant comes from the bound role, never from an argument.
CREATE FUNCTION control.expire_at(due timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO control.expiry_due (tenant_number, due_at)
    VALUES (substring(current_setting('role') FROM '_t([0-9]+)$')::bigint, due)
$$;

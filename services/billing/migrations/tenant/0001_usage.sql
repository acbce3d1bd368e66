CREATE TABLE subscription (
    one          boolean     PRIMARY KEY DEFAULT true CHECK (one),
    plan         text        NOT NULL,
    plan_version int         NOT NULL,
    state        text        NOT NULL CHECK (state IN ('active')),
    changed_at   timestamptz NOT NULL
);
INSERT INTO subscription (plan, plan_version, state, changed_at) VALUES ('free', 1, 'active', now());

-- One row a meter and period, locked by whoever decides. `live` is the period of what exists rather than happens.
CREATE TABLE meters (
    period     text        NOT NULL,
    meter      text        NOT NULL CHECK (meter IN ('jobs', 'agents', 'api_calls')),
    used       bigint      NOT NULL DEFAULT 0 CHECK (used >= 0),
    reserved   bigint      NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    warned_at  timestamptz,
    blocked_at timestamptz,
    PRIMARY KEY (period, meter)
);

CREATE TABLE reservations (
    meter      text        NOT NULL,
    key        text        NOT NULL,
    period     text        NOT NULL,
    state      text        NOT NULL CHECK (state IN ('held', 'committed', 'released')),
    expires_at timestamptz,
    PRIMARY KEY (meter, key)
);
CREATE INDEX reservations_expiring ON reservations (expires_at) WHERE state = 'held' AND expires_at IS NOT NULL;

-- Permanent: a key is counted once, whenever it comes again.
CREATE TABLE ledger (
    sequence    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    meter       text        NOT NULL,
    key         text        NOT NULL,
    quantity    bigint      NOT NULL CHECK (quantity > 0),
    period      text        NOT NULL,
    recorded_at timestamptz NOT NULL,
    UNIQUE (meter, key)
);

CREATE TABLE api_leases (
    id         text        PRIMARY KEY,
    period     text        NOT NULL,
    granted    bigint      NOT NULL CHECK (granted > 0),
    state      text        NOT NULL CHECK (state IN ('open', 'settled', 'expired')),
    expires_at timestamptz NOT NULL
);
CREATE INDEX api_leases_open ON api_leases (expires_at) WHERE state = 'open';

GRANT SELECT, UPDATE ON subscription TO {role};
GRANT SELECT, INSERT, UPDATE ON meters, reservations, api_leases TO {role};
GRANT SELECT, INSERT ON ledger TO {role};

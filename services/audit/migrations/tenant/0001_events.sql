-- The tenant's role may append and read, never change or delete: the log is append-only by privilege.
CREATE TABLE events (
    sequence    bigint      PRIMARY KEY CHECK (sequence > 0),
    id          text        NOT NULL UNIQUE,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    actor_kind  text        NOT NULL,
    actor_id    text        NOT NULL,
    action      text        NOT NULL,
    target_kind text        NOT NULL,
    target_id   text        NOT NULL,
    outcome     text        NOT NULL CHECK (outcome IN ('success', 'denied')),
    request_id  text        NOT NULL,
    service     text        NOT NULL,
    details     jsonb       NOT NULL,
    prev_hash   bytea       NOT NULL CHECK (length(prev_hash) = 32),
    hash        bytea       NOT NULL CHECK (length(hash) = 32)
);
CREATE INDEX events_action ON events (action, sequence);
CREATE INDEX events_actor ON events (actor_id, sequence);
CREATE INDEX events_target ON events (target_id, sequence);
CREATE INDEX events_request ON events (request_id, sequence);
CREATE INDEX events_occurred ON events (occurred_at);

-- One row, locked by whoever appends: numbers have no holes and hashes one order.
CREATE TABLE chain_head (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    sequence bigint  NOT NULL,
    hash     bytea   NOT NULL CHECK (length(hash) = 32)
);
INSERT INTO chain_head (sequence, hash) VALUES (0, decode(repeat('00', 32), 'hex'));

GRANT SELECT, INSERT ON events TO {role};
GRANT SELECT, UPDATE ON chain_head TO {role};

CREATE TABLE outbox (
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
CREATE INDEX outbox_key ON outbox (topic, key, seq) WHERE dead_at IS NULL;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox TO {role};

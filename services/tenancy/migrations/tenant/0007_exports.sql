CREATE TABLE exports (
    id           text        PRIMARY KEY,
    state        text        NOT NULL CHECK (state IN ('running', 'ready', 'failed')),
    requested_by text        NOT NULL,
    created_at   timestamptz NOT NULL,
    finished_at  timestamptz,
    expires_at   timestamptz NOT NULL,
    -- Whoever works at it names the attempt it took: one that was given up on can't go on beside the next.
    attempt      int         NOT NULL DEFAULT 0,
    -- [{"service": …, "table": …, "rows": …, "sha256": …}]
    tables       jsonb       NOT NULL DEFAULT '[]'
);
CREATE UNIQUE INDEX exports_running ON exports ((true)) WHERE state = 'running';
CREATE TABLE export_parts (
    export_id  text   NOT NULL REFERENCES exports ON DELETE CASCADE,
    number     int    NOT NULL CHECK (number > 0),
    service    text   NOT NULL,
    table_name text   NOT NULL,
    rows       bigint NOT NULL,
    sha256     text   NOT NULL,
    content    bytea  NOT NULL,
    PRIMARY KEY (export_id, number)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON exports, export_parts TO {role};

CREATE TABLE agents (
    id         text        PRIMARY KEY,
    handle     text        NOT NULL,
    name       text        NOT NULL,
    state      text        NOT NULL CHECK (state IN ('active', 'paused', 'deleted')),
    config     jsonb       NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE UNIQUE INDEX agents_handle ON agents (handle) WHERE state <> 'deleted';

CREATE TABLE sprites (
    id         text        PRIMARY KEY,
    agent_id   text        NOT NULL UNIQUE REFERENCES agents,
    state      text        NOT NULL CHECK (state IN ('provisioning', 'running', 'stopped', 'failed', 'reclaimed')),
    provider   text        NOT NULL,
    changed_at timestamptz NOT NULL,
    reason     text        NOT NULL DEFAULT ''
);

CREATE TABLE work_items (
    id          text        PRIMARY KEY,
    source      text        NOT NULL,
    event       text        NOT NULL,
    dedupe_key  text        UNIQUE,
    session_key text        NOT NULL,
    title       text        NOT NULL,
    body        text        NOT NULL,
    sender      text        NOT NULL,
    url         text        NOT NULL,
    reply_to    jsonb,
    created_at  timestamptz NOT NULL
);
CREATE INDEX work_items_session ON work_items (session_key, id);

CREATE TABLE jobs (
    id           text        PRIMARY KEY,
    agent_id     text        NOT NULL,
    work_item_id text        NOT NULL,
    state        text        NOT NULL CHECK (state IN ('queued', 'blocked', 'running', 'completed', 'failed', 'cancelled', 'dead')),
    reason       text        NOT NULL DEFAULT '',
    -- Whether billing holds a unit for it.
    reserved     boolean     NOT NULL DEFAULT false,
    attempts     int         NOT NULL DEFAULT 0,
    max_attempts int         NOT NULL,
    lease_epoch  bigint      NOT NULL DEFAULT 0,
    leased_until timestamptz,
    run_at       timestamptz NOT NULL,
    trace        text        NOT NULL DEFAULT '',
    request_id   text        NOT NULL DEFAULT '',
    exit_code    int,
    output       text        NOT NULL DEFAULT '',
    log_lines    bigint      NOT NULL DEFAULT 0,
    log_bytes    bigint      NOT NULL DEFAULT 0,
    created_at   timestamptz NOT NULL,
    started_at   timestamptz,
    finished_at  timestamptz
);
CREATE INDEX jobs_claimable ON jobs (agent_id, run_at, id) WHERE state = 'queued' AND reserved;
CREATE INDEX jobs_blocked ON jobs (run_at) WHERE state = 'blocked';
CREATE INDEX jobs_running ON jobs (agent_id) WHERE state = 'running';
CREATE INDEX jobs_work_item ON jobs (work_item_id);
CREATE INDEX jobs_agent ON jobs (agent_id, id);

CREATE TABLE job_logs (
    job_id   text        NOT NULL,
    sequence bigint      NOT NULL,
    attempt  int         NOT NULL,
    -- The attempt's lease and the runner's own count of lines: a repeated batch is recognized by them.
    epoch    bigint      NOT NULL,
    line     bigint      NOT NULL,
    stream   text        NOT NULL,
    text     text        NOT NULL,
    at       timestamptz NOT NULL,
    PRIMARY KEY (job_id, sequence),
    UNIQUE (job_id, epoch, line)
);

CREATE TABLE integrations (
    id              text        PRIMARY KEY,
    kind            text        NOT NULL,
    state           text        NOT NULL CHECK (state IN ('active', 'suspended', 'deleted')),
    installation_id bigint      NOT NULL,
    account         text        NOT NULL,
    -- GitHub's number → `owner/name`.
    repositories    jsonb       NOT NULL,
    created_at      timestamptz NOT NULL
);

GRANT SELECT, INSERT, UPDATE ON agents, sprites, jobs, integrations TO {role};
GRANT SELECT, INSERT ON work_items, job_logs TO {role};

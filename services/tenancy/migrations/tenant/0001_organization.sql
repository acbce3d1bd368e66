CREATE TABLE org (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    name     text    NOT NULL,
    settings jsonb   NOT NULL,
    version  bigint  NOT NULL
);
CREATE TABLE members (
    user_id   text        PRIMARY KEY,
    email     text        NOT NULL,
    name      text        NOT NULL,
    role      text        NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    joined_at timestamptz NOT NULL
);
CREATE INDEX members_owners ON members (user_id) WHERE role = 'owner';
CREATE TABLE invitations (
    id           text        PRIMARY KEY,
    email        text        NOT NULL,
    role         text        NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    token_sha256 bytea       NOT NULL UNIQUE CHECK (length(token_sha256) = 32),
    state        text        NOT NULL CHECK (state IN ('pending', 'accepted', 'revoked')),
    accepted_by  text,
    expires_at   timestamptz NOT NULL,
    created_at   timestamptz NOT NULL
);
CREATE UNIQUE INDEX invitations_pending ON invitations (email) WHERE state = 'pending';
CREATE TABLE keys (
    id         text        PRIMARY KEY,
    name       text        NOT NULL,
    prefix     text        NOT NULL,
    role       text        NOT NULL CHECK (role IN ('admin', 'member', 'viewer')),
    scopes     text[]      NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL,
    created_by text        NOT NULL
);
CREATE TABLE data_keys (
    version    int         PRIMARY KEY,
    wrapped    bytea       NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE TABLE secrets (
    name       text        PRIMARY KEY,
    version    int         NOT NULL CHECK (version > 0),
    data_key   int         NOT NULL REFERENCES data_keys,
    ciphertext bytea       NOT NULL,
    updated_at timestamptz NOT NULL,
    updated_by text        NOT NULL
);
GRANT SELECT, INSERT, UPDATE, DELETE ON org, members, invitations, keys, secrets TO {role};
GRANT SELECT, INSERT ON data_keys TO {role};

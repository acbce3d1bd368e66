CREATE TABLE support_grants (
    id           text        PRIMARY KEY,
    operator     text        NOT NULL,
    reason       text        NOT NULL,
    minutes      int         NOT NULL CHECK (minutes BETWEEN 1 AND 480),
    break_glass  boolean     NOT NULL,
    state        text        NOT NULL CHECK (state IN ('requested', 'approved', 'denied', 'revoked')),
    requested_at timestamptz NOT NULL,
    decided_by   text        NOT NULL DEFAULT '' CHECK (decided_by <> operator),
    decided_at   timestamptz,
    revoked_by   text        NOT NULL DEFAULT '',
    -- A request's, or the use of what was approved.
    expires_at   timestamptz NOT NULL
);
GRANT SELECT, INSERT, UPDATE ON support_grants TO {role};

-- Earlier values, sealed as they were: a value can be taken back, and none is shown.
CREATE TABLE secret_versions (
    name       text        NOT NULL REFERENCES secrets ON DELETE CASCADE,
    version    int         NOT NULL CHECK (version > 0),
    data_key   int         NOT NULL REFERENCES data_keys,
    ciphertext bytea       NOT NULL,
    updated_at timestamptz NOT NULL,
    updated_by text        NOT NULL,
    PRIMARY KEY (name, version)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON secret_versions TO {role};
-- Wrapped anew when the master key changes; forgotten when nothing is sealed with them any more.
GRANT UPDATE, DELETE ON data_keys TO {role};

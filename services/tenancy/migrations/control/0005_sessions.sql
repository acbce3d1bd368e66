-- Links that were sent, known by their hash and tied to the browser that asked.
CREATE TABLE control.sign_ins (
    token_sha256   bytea       PRIMARY KEY CHECK (length(token_sha256) = 32),
    browser_sha256 bytea       NOT NULL CHECK (length(browser_sha256) = 32),
    email          text        NOT NULL,
    network        text        NOT NULL,
    created_at     timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    used_at        timestamptz
);
CREATE INDEX sign_ins_email ON control.sign_ins (email, created_at);
CREATE INDEX sign_ins_network ON control.sign_ins (network, created_at);
CREATE INDEX sign_ins_age ON control.sign_ins (created_at);

-- Browsers that are signed in. A rotated secret's predecessor is good until the new one was used (`confirmed_at`), and for a
-- minute more; used later, somebody has stolen one of the two. A new one that was never used is replaced (`abandoned_sha256`)
-- when its predecessor comes again; used after all, it tells the same.
CREATE TABLE control.sessions (
    id              text        PRIMARY KEY,
    user_id         text        NOT NULL REFERENCES control.users,
    sha256          bytea       NOT NULL UNIQUE CHECK (length(sha256) = 32),
    previous_sha256 bytea       UNIQUE CHECK (length(previous_sha256) = 32),
    abandoned_sha256 bytea      UNIQUE CHECK (length(abandoned_sha256) = 32),
    lasting         bytea       NOT NULL CHECK (length(lasting) = 32),
    rotated_at      timestamptz NOT NULL,
    confirmed_at    timestamptz,
    user_agent      text        NOT NULL,
    address         text        NOT NULL,
    created_at      timestamptz NOT NULL,
    last_seen_at    timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    revoked_at      timestamptz
);
CREATE INDEX sessions_user ON control.sessions (user_id, created_at);
CREATE INDEX sessions_end ON control.sessions (expires_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON control.sign_ins, control.sessions TO {control};

CREATE TRIGGER sessions_changed AFTER UPDATE OF revoked_at, sha256 ON control.sessions
    FOR EACH ROW EXECUTE FUNCTION control.tell_credentials('key', 'id');
CREATE TRIGGER sessions_gone AFTER DELETE ON control.sessions
    FOR EACH ROW EXECUTE FUNCTION control.tell_credentials('key', 'id');

-- A person's own keys are listed, too.
ALTER TABLE control.credentials ADD COLUMN prefix text NOT NULL DEFAULT '', ADD COLUMN created_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX credentials_user ON control.credentials (user_id, key_id) WHERE user_id IS NOT NULL;

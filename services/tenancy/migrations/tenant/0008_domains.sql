CREATE TABLE domains (
    id          text        PRIMARY KEY,
    name        text        NOT NULL UNIQUE,
    -- The challenge: public, once it stands in the DNS.
    token       text        NOT NULL,
    joining     text        NOT NULL DEFAULT 'manual' CHECK (joining IN ('manual', 'suggested', 'automatic')),
    role        text        NOT NULL DEFAULT 'viewer' CHECK (role IN ('viewer', 'member')),
    created_at  timestamptz NOT NULL,
    verified_at timestamptz
);
-- Who is gone does not come back by their domain alone. Forgotten when they are members again.
CREATE TABLE departures (
    -- A person's id; of who was removed also the hash of their address, so that no new account of theirs comes in.
    who     text    PRIMARY KEY,
    -- By somebody else, so that they may not even ask.
    removed boolean NOT NULL
);
GRANT SELECT, INSERT, UPDATE, DELETE ON domains, departures TO {role};

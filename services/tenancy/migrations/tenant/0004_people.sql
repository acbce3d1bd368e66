ALTER TABLE invitations
    DROP CONSTRAINT invitations_state_check,
    ADD CONSTRAINT invitations_state_check CHECK (state IN ('pending', 'accepted', 'declined', 'revoked')),
    -- How often its mail was written.
    ADD COLUMN sent int NOT NULL DEFAULT 1;
-- At most one offer at a time; it ends with the membership of whom it was made to.
CREATE TABLE ownership_offer (
    one        boolean     PRIMARY KEY DEFAULT true CHECK (one),
    from_user  text        NOT NULL,
    to_user    text        NOT NULL REFERENCES members ON DELETE CASCADE,
    offered_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
GRANT SELECT, INSERT, UPDATE, DELETE ON ownership_offer TO {role};

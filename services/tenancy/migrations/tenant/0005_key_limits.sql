ALTER TABLE keys
    ADD COLUMN networks            text[] NOT NULL DEFAULT '{}',
    ADD COLUMN requests_per_minute int    CHECK (requests_per_minute > 0),
    -- The key that it was made instead of.
    ADD COLUMN replaces            text   NOT NULL DEFAULT '';

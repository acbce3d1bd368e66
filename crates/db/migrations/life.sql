-- An organization's life: its work may stand still (`suspended`), and in the end everything of it is deleted (`purged`). The
-- row of a purged one stays: it says what was deleted, and keeps its number and id from ever being used again.
ALTER TABLE control.tenants
    DROP CONSTRAINT tenants_state_check,
    ADD CONSTRAINT tenants_state_check CHECK (state IN ('building', 'spare', 'active', 'suspended', 'purged')),
    -- Of tenancy's count of changes: what comes late is known by it.
    ADD COLUMN state_version bigint NOT NULL DEFAULT 0,
    -- Table → rows that were deleted.
    ADD COLUMN purged jsonb,
    ADD COLUMN purged_at timestamptz,
    ADD CHECK ((purged IS NULL) = (state <> 'purged'));
DROP INDEX control.tenants_version;
CREATE INDEX tenants_version ON control.tenants (schema_version) WHERE state NOT IN ('building', 'purged');

-- Where an organization's tables are, in the first of several databases: one row for each that was placed. Without one they
-- are here.
CREATE TABLE control.placements (
    org_id    text PRIMARY KEY,
    -- '' is this database; others have the names that the configuration gives them.
    database  text NOT NULL,
    -- Where a move takes it that has begun and is not at its end.
    moving_to text
);
CREATE INDEX placements_moving ON control.placements (org_id) WHERE moving_to IS NOT NULL;
GRANT SELECT, INSERT, UPDATE ON control.placements TO {control};
ALTER TABLE control.tenants
    DROP CONSTRAINT tenants_state_check,
    ADD CONSTRAINT tenants_state_check
        CHECK (state IN ('building', 'spare', 'active', 'suspended', 'arriving', 'moved', 'purged')),
    -- The state that it had where it comes from.
    ADD COLUMN arriving_as text CHECK (arriving_as IN ('active', 'suspended'));
DROP INDEX control.tenants_version;
CREATE INDEX tenants_version ON control.tenants (schema_version) WHERE state NOT IN ('building', 'moved', 'purged');

-- The digest of the backup that is being put back: a restore that was interrupted goes on with that one, and until it has
-- ended the organization is not resumed.
ALTER TABLE control.orgs ADD COLUMN restoring bytea;

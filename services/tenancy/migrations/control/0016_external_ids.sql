-- As an organization was created, like its name: what was left half-way is finished with it.
ALTER TABLE control.orgs ADD COLUMN external_id text NOT NULL DEFAULT '';

ALTER TABLE org
    ADD COLUMN metadata    jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN external_id text  NOT NULL DEFAULT '';

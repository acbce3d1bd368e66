-- The whole life of an organization. A suspension outlives a deletion that is taken back: an owner can't end it that way.
ALTER TABLE control.orgs
    DROP CONSTRAINT orgs_state_check,
    ADD CONSTRAINT orgs_state_check
        CHECK (state IN ('provisioning', 'active', 'suspended', 'deleting', 'purging', 'purged')),
    ADD COLUMN suspended_at          timestamptz,
    ADD COLUMN suspended_because     text   NOT NULL DEFAULT '',
    ADD COLUMN deletion_requested_at timestamptz,
    ADD COLUMN deletion_requested_by text   NOT NULL DEFAULT '',
    ADD COLUMN purge_after           timestamptz,
    ADD COLUMN held_at               timestamptz,
    ADD COLUMN held_by               text   NOT NULL DEFAULT '',
    ADD COLUMN held_because          text   NOT NULL DEFAULT '',
    -- Who owned it when its purge began: [{"id": …, "email": …}]. They get the receipt.
    ADD COLUMN purge_owners          jsonb  NOT NULL DEFAULT '[]',
    -- Counts up with each change that the other services must hear of, and how far they heard.
    ADD COLUMN state_version         bigint NOT NULL DEFAULT 0,
    ADD COLUMN told_version          bigint NOT NULL DEFAULT 0,
    ADD CHECK (state <> 'deleting' OR purge_after IS NOT NULL),
    ADD CHECK (state <> 'suspended' OR suspended_at IS NOT NULL);
CREATE INDEX orgs_untold ON control.orgs (id) WHERE told_version < state_version;
CREATE INDEX orgs_to_purge ON control.orgs (purge_after) WHERE state = 'deleting';
CREATE INDEX orgs_purging ON control.orgs (id) WHERE state = 'purging';

-- Every slug that leads to an organization, now or once. Here, and only here, one is taken.
CREATE TABLE control.slugs (
    slug       text        PRIMARY KEY,
    org_id     text        NOT NULL,
    -- Of a purged organization's: nobody takes over what links still lead to.
    held_until timestamptz
);
CREATE INDEX slugs_org ON control.slugs (org_id);
INSERT INTO control.slugs (slug, org_id) SELECT slug, id FROM control.orgs;
GRANT SELECT, INSERT, UPDATE ON control.slugs TO {control};
-- Also for a replica of the version before, which takes none.
CREATE FUNCTION control.slug_of_new_org() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO control.slugs (slug, org_id) VALUES (NEW.slug, NEW.id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER orgs_slug AFTER INSERT ON control.orgs FOR EACH ROW EXECUTE FUNCTION control.slug_of_new_org();

CREATE TABLE control.purge_receipts (
    org_id     text        PRIMARY KEY,
    owners     text[]      NOT NULL,
    payload    text        NOT NULL,
    signature  bytea       NOT NULL CHECK (length(signature) = 64),
    key_id     text        NOT NULL,
    created_at timestamptz NOT NULL
);
GRANT SELECT, INSERT ON control.purge_receipts TO {control};

-- Kept answers tell the organization's state, so each change of it is told.
DROP TRIGGER orgs_changed ON control.orgs;
CREATE TRIGGER orgs_changed AFTER UPDATE OF state OR DELETE ON control.orgs
    FOR EACH ROW WHEN (OLD.state IN ('active', 'suspended', 'deleting'))
    EXECUTE FUNCTION control.tell_credentials('org', 'id');

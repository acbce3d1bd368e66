-- Whose chain it is, where that is not the organization itself: a chain that was restored under another id goes on with the id
-- that its hashes cover.
ALTER TABLE chain_head ADD COLUMN org_id text NOT NULL DEFAULT '';

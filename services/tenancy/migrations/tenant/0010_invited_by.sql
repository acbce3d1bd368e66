-- Whose right an invitation hands on: `user_…` or `key_…`, who must have it still when it is accepted. Empty: it is older than this.
ALTER TABLE invitations ADD COLUMN invited_by text NOT NULL DEFAULT '';
-- From now on an offer ends with the ownership of who made it; those that outlived it end here.
DELETE FROM ownership_offer WHERE from_user NOT IN (SELECT user_id FROM members WHERE role = 'owner');

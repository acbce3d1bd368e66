-- Since when the record of a verified domain is not found, when it is looked for. Empty: it was there, or nobody looked.
ALTER TABLE domains ADD COLUMN missed_at timestamptz;
-- When an invitation's mail was last written. Empty: once, with the invitation.
ALTER TABLE invitations ADD COLUMN sent_at timestamptz;
-- How many mails of invitations were written since then; a day later it begins anew.
ALTER TABLE org
    ADD COLUMN mails       bigint NOT NULL DEFAULT 0,
    ADD COLUMN mails_since timestamptz;

-- Who made a person's key: the person, or an operator. Older keys do not say.
ALTER TABLE control.credentials ADD COLUMN created_by text NOT NULL DEFAULT '';

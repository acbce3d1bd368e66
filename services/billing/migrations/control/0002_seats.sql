-- No version of its own: seats were not counted before, so these are the first numbers that anybody is told.
ALTER TABLE control.plans ADD COLUMN seats_limit bigint CHECK (seats_limit > 0);
UPDATE control.plans SET seats_limit = CASE id WHEN 'free' THEN 5 WHEN 'pro' THEN 15 WHEN 'team' THEN 100 END;
UPDATE control.plans SET features = features || '{custom_roles}' WHERE id IN ('team', 'enterprise');

-- The request with an Idempotency-Key that asked for an organization: a creation outlives the request that began it.
ALTER TABLE control.orgs ADD COLUMN asked_with bytea CHECK (length(asked_with) = 64);

-- Answers to requests with an Idempotency-Key, written in the transaction of the change that they tell of. Sealed with a
-- key that only the caller has; found only by a name that only the caller can make.
CREATE TABLE control.answers (
    id         bytea       PRIMARY KEY CHECK (length(id) = 32),
    request    bytea       NOT NULL CHECK (length(request) = 32),
    answer     bytea       NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX answers_age ON control.answers (created_at);
GRANT SELECT, DELETE ON control.answers TO {control};

-- Keeps an answer. One that is younger than `outdated` is never overwritten.
CREATE FUNCTION control.answer_put(new_id bytea, new_request bytea, new_answer bytea, at timestamptz, outdated timestamptz)
RETURNS boolean LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO control.answers AS a (id, request, answer, created_at) VALUES (new_id, new_request, new_answer, at)
    ON CONFLICT (id) DO UPDATE SET request = new_request, answer = new_answer, created_at = at
        WHERE a.created_at <= outdated
    RETURNING true
$$;

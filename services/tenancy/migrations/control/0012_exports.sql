-- Exports that are to be made, or deleted: one row each, looked at when it is due. A worker that takes one moves it ahead, so that
-- another finds it when the first was killed.
CREATE TABLE control.export_pointers (
    export_id text        PRIMARY KEY,
    org_id    text        NOT NULL,
    due_at    timestamptz NOT NULL,
    attempts  int         NOT NULL DEFAULT 0
);
CREATE INDEX export_pointers_due ON control.export_pointers (due_at);
GRANT SELECT, UPDATE ON control.export_pointers TO {control};
-- In both the organization comes from the bound role.
CREATE FUNCTION control.export_at(export text, at timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO control.export_pointers (export_id, org_id, due_at) VALUES (export, control.bound_org(), at)
    ON CONFLICT (export_id) DO UPDATE SET due_at = at, attempts = 0 WHERE export_pointers.org_id = excluded.org_id
$$;
CREATE FUNCTION control.export_gone(export text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM control.export_pointers WHERE export_id = export AND org_id = control.bound_org()
$$;

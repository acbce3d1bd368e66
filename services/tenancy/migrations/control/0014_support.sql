-- What approved grants open: looked at whenever an operator names an organization.
CREATE TABLE control.support_grants (
    grant_id   text        PRIMARY KEY,
    org_id     text        NOT NULL,
    operator   text        NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX support_grants_use ON control.support_grants (org_id, operator);
GRANT SELECT ON control.support_grants TO {control};
-- In both the organization comes from the bound role.
CREATE FUNCTION control.support_put(of_grant text, by_operator text, until timestamptz) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    INSERT INTO control.support_grants (grant_id, org_id, operator, expires_at)
    VALUES (of_grant, control.bound_org(), by_operator, until)
$$;
CREATE FUNCTION control.support_end(of_grant text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM control.support_grants WHERE grant_id = of_grant AND org_id = control.bound_org()
$$;

-- Verified domains: here, and only here, one is taken. What people who sign in with an address there are looked up by.
CREATE TABLE control.domains (
    name    text PRIMARY KEY,
    org_id  text NOT NULL,
    joining text NOT NULL CHECK (joining IN ('manual', 'suggested', 'automatic')),
    role    text NOT NULL CHECK (role IN ('viewer', 'member'))
);
CREATE INDEX domains_org ON control.domains (org_id);
GRANT SELECT ON control.domains TO {control};
-- In both the organization comes from the bound role. Whether the domain is its own afterwards: another may hold it.
CREATE FUNCTION control.domain_put(domain text, how text, as_role text) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    WITH put AS (
        INSERT INTO control.domains (name, org_id, joining, role) VALUES (domain, control.bound_org(), how, as_role)
        ON CONFLICT (name) DO UPDATE SET joining = excluded.joining, role = excluded.role
        WHERE domains.org_id = excluded.org_id RETURNING 1)
    SELECT EXISTS (SELECT FROM put)
$$;
CREATE FUNCTION control.domain_remove(domain text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
    DELETE FROM control.domains WHERE name = domain AND org_id = control.bound_org()
$$;

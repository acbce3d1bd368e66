CREATE TABLE roles (
    id          text        PRIMARY KEY,
    name        text        NOT NULL,
    description text        NOT NULL,
    permissions text[]      NOT NULL,
    version     bigint      NOT NULL,
    created_at  timestamptz NOT NULL
);
CREATE UNIQUE INDEX roles_name ON roles (lower(name));
CREATE TABLE member_roles (
    user_id text NOT NULL REFERENCES members ON DELETE CASCADE,
    role_id text NOT NULL REFERENCES roles ON DELETE CASCADE,
    PRIMARY KEY (user_id, role_id)
);
CREATE INDEX member_roles_role ON member_roles (role_id);
CREATE TABLE key_roles (
    key_id  text NOT NULL REFERENCES keys ON DELETE CASCADE,
    role_id text NOT NULL REFERENCES roles ON DELETE CASCADE,
    PRIMARY KEY (key_id, role_id)
);
CREATE INDEX key_roles_role ON key_roles (role_id);
ALTER TABLE invitations ADD COLUMN role_ids text[] NOT NULL DEFAULT '{}';
GRANT SELECT, INSERT, UPDATE, DELETE ON roles, member_roles, key_roles TO {role};

-- A deleted person's row stays without name and address: what they did stands under their id.
ALTER TABLE control.users ADD COLUMN deleted_at timestamptz;
GRANT DELETE ON control.credentials TO {control};

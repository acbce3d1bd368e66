-- Uses of grants that have ended are forgotten.
GRANT DELETE ON control.support_grants TO {control};

//! Names of schemas, roles and logins. Roles are the whole cluster's, so they carry the database's prefix; all else in a
//! name is a number, so that no text from outside ever reaches dynamic SQL.

/// The names of one database.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    prefix: String,
    buckets: u16,
}

impl Names {
    /// `prefix` must be a plain identifier; `bootstrap` checks it.
    pub(crate) fn new(prefix: String, buckets: u16) -> Self {
        Self { prefix, buckets }
    }

    pub(crate) fn buckets(&self) -> u16 {
        self.buckets
    }

    /// The bucket that serves a tenant: by number, so that more tenants move nobody.
    pub(crate) fn bucket_of(&self, tenant: i64) -> u16 {
        u16::try_from(tenant.rem_euclid(i64::from(self.buckets))).unwrap_or(0)
    }

    pub(crate) fn control(&self) -> String {
        format!("{}_control", self.prefix)
    }

    pub(crate) fn bucket(&self, bucket: u16) -> String {
        format!("{}_b{bucket}", self.prefix)
    }

    pub(crate) fn role(&self, tenant: i64) -> String {
        format!("{}_t{tenant}", self.prefix)
    }

    /// What every tenant's role is a member of: it may call the functions in `control`. One grant to it instead of one a
    /// tenant keeps the schema's privilege list short.
    pub(crate) fn all_tenants(&self) -> String {
        format!("{}_tenants", self.prefix)
    }

    pub(crate) fn schema(tenant: i64) -> String {
        format!("t_{tenant}")
    }
}

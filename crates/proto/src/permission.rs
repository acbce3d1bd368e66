//! The permission catalogue and the four fixed roles. One row per permission; a column says which roles hold it.

/// A fixed role of a member or key in one organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads, but not keys, secrets, bills or the audit log.
    Viewer,
    /// Uses agents: runs and cancels jobs, reads.
    Member,
    /// Everything but billing, ownership and deletion.
    Admin,
    /// Everything.
    Owner,
}

use Role::{Admin, Member, Owner, Viewer};

/// Every permission with the least role that holds it. Roles are ordered: each holds what the lesser ones hold.
pub const CATALOGUE: &[(&str, Role)] = &[
    ("org.read", Viewer),
    ("org.leave", Viewer),
    ("members.read", Viewer),
    ("agents.read", Viewer),
    ("jobs.read", Viewer),
    ("integrations.read", Viewer),
    ("usage.read", Viewer),
    ("jobs.run", Member),
    ("jobs.cancel", Member),
    ("org.write", Admin),
    ("members.write", Admin),
    ("roles.read", Viewer),
    ("roles.write", Admin),
    ("keys.read", Admin),
    ("keys.write", Admin),
    ("secrets.read", Admin),
    ("secrets.write", Admin),
    ("agents.write", Admin),
    ("integrations.write", Admin),
    ("audit.read", Admin),
    ("domains.read", Admin),
    ("domains.write", Admin),
    ("support.read", Admin),
    ("org.rename", Owner),
    ("org.delete", Owner),
    ("org.transfer", Owner),
    ("org.export", Owner),
    ("support.write", Owner),
    ("billing.read", Owner),
];

impl Role {
    /// All roles, the least first.
    pub const ALL: [Role; 4] = [Viewer, Member, Admin, Owner];

    /// The role's name in the API and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Viewer => "viewer",
            Member => "member",
            Admin => "admin",
            Owner => "owner",
        }
    }

    /// The role of that name.
    pub fn parse(name: &str) -> Option<Role> {
        Self::ALL.into_iter().find(|r| r.as_str() == name)
    }

    /// Whether the role holds a permission. An unknown permission is held by nobody.
    pub fn allows(self, permission: &str) -> bool {
        CATALOGUE.iter().any(|(p, least)| *p == permission && self >= *least)
    }

    /// Everything the role holds.
    pub fn permissions(self) -> impl Iterator<Item = &'static str> {
        CATALOGUE.iter().filter(move |(_, least)| self >= *least).map(|(p, _)| *p)
    }
}

/// Whether there is such a permission.
pub fn is_known(permission: &str) -> bool {
    CATALOGUE.iter().any(|(p, _)| *p == permission)
}

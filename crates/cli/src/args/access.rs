//! Who else comes in: people of a domain, and our support.

use clap::Subcommand;

/// Domains.
#[derive(Debug, Subcommand)]
pub enum Domains {
    /// All.
    List,
    /// Claim one: says what its DNS must say.
    Add {
        /// Such as example.com.
        name: String,
    },
    /// Look into its DNS.
    Verify {
        /// Its name or id.
        domain: String,
    },
    /// How people with an address there join.
    Set {
        /// Its name or id.
        domain: String,
        /// manual, suggested or automatic.
        joining: String,
        /// viewer or member.
        #[arg(long)]
        role: Option<String>,
    },
    /// Give one up.
    Remove {
        /// Its name or id.
        domain: String,
    },
}

/// Access of our support.
#[derive(Debug, Subcommand)]
pub enum Support {
    /// What was asked for, the newest first.
    List,
    /// Let who asked read, for the time that they asked for.
    Approve {
        /// grant_…
        grant: String,
    },
    /// Refuse it.
    Deny {
        /// grant_…
        grant: String,
    },
    /// End it before its time.
    Revoke {
        /// grant_…
        grant: String,
    },
}

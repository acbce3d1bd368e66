//! Short names that organizations can have.

use nitejar_common::error::{Code, Error, Result};

/// Old slugs that an organization keeps beside its own.
pub const MOST_OLD: i64 = 10;

/// Slugs that would be taken for something of ours, or lend somebody our authority.
const RESERVED: &[&str] = &[
    "about",
    "abuse",
    "account",
    "accounts",
    "admin",
    "administrator",
    "api",
    "app",
    "apps",
    "assets",
    "audit",
    "auth",
    "billing",
    "blog",
    "careers",
    "changelog",
    "cloud",
    "console",
    "contact",
    "dashboard",
    "dev",
    "developer",
    "developers",
    "docs",
    "download",
    "enterprise",
    "example",
    "explore",
    "features",
    "help",
    "home",
    "healthz",
    "info",
    "internal",
    "keys",
    "invitations",
    "jobs",
    "join",
    "legal",
    "login",
    "logout",
    "mail",
    "marketplace",
    "members",
    "metrics",
    "new",
    "nitejar",
    "notifications",
    "null",
    "oauth",
    "openapi",
    "operator",
    "operators",
    "org",
    "organization",
    "organizations",
    "orgs",
    "platform",
    "plans",
    "postmaster",
    "pricing",
    "privacy",
    "profile",
    "public",
    "purge-receipts",
    "register",
    "root",
    "saml",
    "scim",
    "search",
    "secrets",
    "security",
    "session",
    "sessions",
    "settings",
    "sign-in",
    "sign-out",
    "sign-up",
    "signin",
    "signout",
    "signup",
    "sso",
    "staff",
    "static",
    "status",
    "store",
    "support",
    "system",
    "team",
    "teams",
    "terms",
    "test",
    "trust",
    "undefined",
    "user",
    "users",
    "v1",
    "v2",
    "webhook",
    "webhooks",
    "webmaster",
    "well-known",
    "www",
];

/// Refuses a slug that nobody gets.
pub fn check(slug: &str) -> Result<()> {
    let parts = slug.split('-').all(|part| !part.is_empty());
    let plain = slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !(3..=40).contains(&slug.len()) || !plain || !parts {
        return Err(Error::invalid("/slug", "must be 3 to 40 of a-z, 0-9 and single dashes"));
    }
    // `nitejar-support` and `support-nitejar` would be taken for us, too.
    if RESERVED.contains(&slug) || slug.split('-').any(|part| part == "nitejar") {
        return Err(taken(slug, "reserved").violation("/slug", "must not be reserved"));
    }
    Ok(())
}

/// Somebody has it, or had it.
pub fn is_taken(slug: &str) -> Error {
    taken(slug, "taken").violation("/slug", "must be free")
}

fn taken(slug: &str, how: &str) -> Error {
    Error::new(Code::AlreadyExists, format!("The slug {slug} is {how}. Choose another one."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_or_malformed_is_refused() {
        for good in ["acme", "a-1", "acme-works-2"] {
            assert!(check(good).is_ok(), "{good}");
        }
        let long = "a".repeat(41);
        for bad in ["ab", "Acme", "-acme", "acme-", "a--b", "аcme", "acme.", "a cme", long.as_str()] {
            assert_eq!(check(bad).unwrap_err().code(), Code::InvalidArgument, "{bad}");
        }
        for reserved in RESERVED.iter().chain(&["nitejar-x", "support-nitejar", "x-nitejar-y"]) {
            let refused = check(reserved).unwrap_err().code();
            assert!(matches!(refused, Code::AlreadyExists | Code::InvalidArgument), "{reserved}");
        }
    }
}

//! E-mail addresses.

use nitejar_common::error::{Error, Result};
use nitejar_common::text::is_address;

/// The form in which addresses are compared and kept: lower case, no space around.
pub fn normalized(text: &str, pointer: &str) -> Result<String> {
    let email = text.trim();
    // Before it is lower-cased: signs that look like ASCII must not become it.
    if is_address(email) {
        Ok(email.to_ascii_lowercase())
    } else {
        Err(Error::invalid(pointer, "must be an e-mail address such as ada@example.com"))
    }
}

/// What stands for an address in a log: the same for the same one, and not it.
pub fn pseudonym(email: &str) -> String {
    hex::encode(&nitejar_common::key::sha256(&format!("nitejar address {email}"))[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(normalized(" Ada@Example.COM ", "/email").unwrap(), "ada@example.com");
        for wrong in ["", "a@b", "a@b@c.d", "a..b@c.de", "\u{212a}@b.de"] {
            assert!(normalized(wrong, "/email").is_err(), "{wrong:?}");
        }
    }
}

//! E-mail addresses.

use nitejar_common::error::{Error, Result};

/// The form in which addresses are compared and kept: lower case, no space around.
pub fn normalized(text: &str, pointer: &str) -> Result<String> {
    let email = text.trim().to_lowercase();
    let plain = !email.chars().any(|c| c.is_whitespace() || c.is_control());
    let parts = email.split_once('@').filter(|(user, host)| {
        !user.is_empty()
            && user.len() <= 64
            && !host.contains('@')
            && host.contains('.')
            && !host.starts_with('.')
            && !host.ends_with('.')
    });
    if plain && email.len() <= 254 && parts.is_some() {
        Ok(email)
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
        for wrong in ["", "a", "a@", "@b.c", "a@b", "a@b.", "a@.b", "a@b@c.d", "a b@c.d", "a\u{7}@b.c"] {
            assert!(normalized(wrong, "/email").is_err(), "{wrong:?}");
        }
    }
}

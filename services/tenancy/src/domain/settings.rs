//! An organization's name and settings, and changing a part of them.

use std::collections::BTreeMap;

use nitejar_common::error::{Error, Result};
use nitejar_common::text::{hides, is_visible};
use serde::{Deserialize, Serialize};

use super::email;

/// What an organization can set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// IANA time zone.
    pub timezone: String,
    /// Empty: the owners.
    pub billing_email: String,
    /// 0: the platform's default.
    pub job_timeout_seconds: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { timezone: "UTC".into(), billing_email: String::new(), job_timeout_seconds: 0 }
    }
}

/// What a change may touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Editable {
    /// Display name.
    pub name: String,
    /// Settings.
    pub settings: Settings,
    /// The owners' own notes.
    pub metadata: BTreeMap<String, String>,
    /// Its id in a system of the owners'.
    pub external_id: String,
}

impl Editable {
    /// Takes the fields that the mask names from `from`.
    pub fn apply(&mut self, from: &Editable, mask: &[String]) -> Result<()> {
        let had = self.name.clone();
        for path in mask {
            match path.as_str() {
                "name" => self.name.clone_from(&from.name),
                "metadata" => self.metadata.clone_from(&from.metadata),
                "external_id" => self.external_id.clone_from(&from.external_id),
                "settings" => self.settings = from.settings.clone(),
                "settings.timezone" => self.settings.timezone.clone_from(&from.settings.timezone),
                "settings.billing_email" => {
                    self.settings.billing_email.clone_from(&from.settings.billing_email)
                }
                "settings.job_timeout_seconds" => {
                    self.settings.job_timeout_seconds = from.settings.job_timeout_seconds
                }
                other => {
                    return Err(Error::invalid(
                        "/update_mask",
                        format!("must name fields that can change; {other} can't"),
                    ));
                }
            }
        }
        // One that it has may be of before a rule: it is in the way of no other change.
        if self.name != had {
            check_name(&self.name)?;
        }
        self.check()
    }

    fn check(&mut self) -> Result<()> {
        check_metadata(&self.metadata)?;
        check_external_id(&self.external_id)?;
        if self.settings.timezone.is_empty() {
            self.settings.timezone = "UTC".into();
        }
        let zone = &self.settings.timezone;
        let plain = zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+/-".contains(&b));
        if !plain || zone.len() > 64 {
            return Err(Error::invalid(
                "/settings/timezone",
                "must be an IANA time zone such as Europe/Berlin",
            ));
        }
        if !self.settings.billing_email.is_empty() {
            self.settings.billing_email =
                email::normalized(&self.settings.billing_email, "/settings/billing_email")?;
        }
        if self.settings.job_timeout_seconds > 86_400 {
            return Err(Error::invalid("/settings/job_timeout_seconds", "must be 0 to 86400"));
        }
        Ok(())
    }
}

/// Up to 100 visible ASCII characters.
pub fn check_external_id(id: &str) -> Result<()> {
    if id.len() > 100 || !id.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Error::invalid("/external_id", "must be up to 100 visible ASCII characters"));
    }
    Ok(())
}

/// At most 50 notes: plain names, texts of up to 500 characters.
fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let name = |k: &str| (1..=40).contains(&k.len()) && k.bytes().all(plain);
    let text = |v: &str| v.chars().count() <= 500 && !v.contains('\0');
    if metadata.len() > 50 || !metadata.iter().all(|(k, v)| name(k) && text(v)) {
        return Err(Error::invalid(
            "/metadata",
            "must be at most 50 entries, each with a name of 1 to 40 of a-z, A-Z, 0-9, _, . and -, and up to 500 characters",
        ));
    }
    Ok(())
}

/// A text for people to read: 1 to 500 visible characters.
pub fn check_text(text: String, pointer: &str) -> Result<String> {
    let length = text.trim().chars().count();
    let broken = |c: char| hides(c) && c != '\n';
    if length == 0 || text.chars().count() > 500 || text.chars().any(broken) {
        return Err(Error::invalid(pointer, "must be 1 to 500 visible characters"));
    }
    Ok(text)
}

/// The same, or none.
pub fn check_optional_text(text: &str, pointer: &str) -> Result<()> {
    if text.is_empty() { Ok(()) } else { check_text(text.to_owned(), pointer).map(drop) }
}

/// 1 to 100 characters, none that hides or turns text around.
pub fn check_name(name: &str) -> Result<()> {
    if name.chars().count() > 100 || !is_visible(name) {
        return Err(Error::invalid("/name", "must be 1 to 100 visible characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_changes_what_it_names_and_nothing_else() {
        let before = Editable { name: "A".into(), ..Editable::default() };
        let wish = Editable {
            name: "B".into(),
            settings: Settings {
                timezone: "Europe/Berlin".into(),
                billing_email: "X@y.de".into(),
                job_timeout_seconds: 5,
            },
            metadata: BTreeMap::from([("tier".into(), "gold".into())]),
            external_id: "crm-1".into(),
        };
        let apply = |mask: &[&str]| {
            let mut e = before.clone();
            e.apply(&wish, &mask.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).map(|()| e)
        };
        assert_eq!(apply(&[]).unwrap(), before);
        assert_eq!(apply(&["name"]).unwrap().settings, before.settings);
        let one = apply(&["settings.billing_email"]).unwrap();
        assert_eq!(
            (one.name.as_str(), one.settings.billing_email.as_str(), one.settings.timezone.as_str()),
            ("A", "x@y.de", "UTC")
        );
        let noted = apply(&["metadata", "external_id"]).unwrap();
        assert_eq!(
            (noted.metadata["tier"].as_str(), noted.external_id.as_str(), noted.name.as_str()),
            ("gold", "crm-1", "A")
        );
        for (key, value) in
            [("", "x"), ("a b", "x"), (&*"k".repeat(41), "x"), ("k", &*"v".repeat(501)), ("k", "\0")]
        {
            assert!(
                check_metadata(&BTreeMap::from([(key.into(), value.into())])).is_err(),
                "{key:?} {value:?}"
            );
        }
        assert!(check_metadata(&(0..51).map(|i| (format!("k{i}"), String::new())).collect()).is_err());
        assert!(apply(&["slug"]).is_err());
        for wrong in [" ", "ab\u{202e}cd", "ab\u{61c}cd", "ab\u{2028}cd", "ab\u{2029}cd", "ab\ncd"] {
            assert!(check_name(wrong).is_err(), "{wrong:?}");
        }
        assert!(check_name("Ünïcode ok").is_ok());
        assert!(check_text("two\nlines".into(), "/reason").is_ok());
        assert!(check_text("two\u{2028}lines".into(), "/reason").is_err());
    }
}

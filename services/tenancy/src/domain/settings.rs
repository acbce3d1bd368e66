//! An organization's name and settings, and changing a part of them.

use nitejar_common::error::{Error, Result};
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Editable {
    /// Display name.
    pub name: String,
    /// Settings.
    pub settings: Settings,
}

impl Editable {
    /// Takes the fields that the mask names from `from`.
    pub fn apply(&mut self, from: &Editable, mask: &[String]) -> Result<()> {
        for path in mask {
            match path.as_str() {
                "name" => self.name.clone_from(&from.name),
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
        self.check()
    }

    fn check(&mut self) -> Result<()> {
        check_name(&self.name)?;
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

/// 1 to 100 characters, none that hides or turns text around.
pub fn check_name(name: &str) -> Result<()> {
    let tricky = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let length = name.trim().chars().count();
    if length == 0 || name.chars().count() > 100 || name.chars().any(tricky) {
        return Err(Error::invalid("/name", "must be 1 to 100 visible characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_changes_what_it_names_and_nothing_else() {
        let before = Editable { name: "A".into(), settings: Settings::default() };
        let wish = Editable {
            name: "B".into(),
            settings: Settings {
                timezone: "Europe/Berlin".into(),
                billing_email: "X@y.de".into(),
                job_timeout_seconds: 5,
            },
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
        assert!(apply(&["slug"]).is_err());
        assert!(
            check_name("ab\u{202e}cd").is_err()
                && check_name(" ").is_err()
                && check_name("Ünïcode ok").is_ok()
        );
    }
}

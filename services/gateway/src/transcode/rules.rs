//! The bounds that fields state in their proto files.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use nitejar_common::error::Violation;
use nitejar_common::id::is_id;
use nitejar_proto::policy::{FieldRules, field_rules};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage as _, Value};
use regex::Regex;

/// More problems of one request are not told.
pub const MOST: usize = 20;

/// Notes every field that is out of its bounds.
pub fn check(message: &DynamicMessage, at: &str, problems: &mut Vec<Violation>) {
    for field in message.descriptor().fields() {
        let pointer = format!("{at}/{}", field.name());
        let rules = rules(&field);
        if !message.has_field(&field) {
            if rules.required {
                note(problems, &pointer, "must be given");
            }
            continue;
        }
        match &*message.get_field(&field) {
            Value::List(items) => {
                if rules.max_items > 0 && items.len() > usize::try_from(rules.max_items).unwrap_or(usize::MAX)
                {
                    note(problems, &pointer, &format!("must have at most {} items", rules.max_items));
                }
                for (i, item) in items.iter().enumerate() {
                    one(&rules, item, &format!("{pointer}/{i}"), problems);
                }
            }
            Value::Map(entries) => {
                if entries.len() > usize::try_from(rules.max_items).unwrap_or(usize::MAX) {
                    note(problems, &pointer, &format!("must have at most {} entries", rules.max_items));
                }
                for (key, value) in entries {
                    let name = key.as_str().unwrap_or_default();
                    if !matches_whole(&rules.key_pattern, name) {
                        let must = format!("must have entries whose names match {}", rules.key_pattern);
                        note(problems, &pointer, &must);
                    }
                    one(&rules, value, &format!("{pointer}/{name}"), problems);
                }
            }
            value => one(&rules, value, &pointer, problems),
        }
    }
}

fn one(rules: &FieldRules, value: &Value, pointer: &str, problems: &mut Vec<Violation>) {
    match value {
        Value::String(text) => {
            if let Some(why) = wrong_text(rules, text) {
                note(problems, pointer, &why);
            }
        }
        Value::Message(inner) if !inner.descriptor().full_name().starts_with("google.protobuf.") => {
            check(inner, pointer, problems);
        }
        Value::I32(n) => number(rules, i64::from(*n), pointer, problems),
        Value::U32(n) => number(rules, i64::from(*n), pointer, problems),
        Value::I64(n) => number(rules, *n, pointer, problems),
        Value::U64(n) => number(rules, i64::try_from(*n).unwrap_or(i64::MAX), pointer, problems),
        _ => {}
    }
}

fn number(rules: &FieldRules, n: i64, pointer: &str, problems: &mut Vec<Violation>) {
    if n < rules.min || (rules.max > 0 && n > rules.max) {
        let most = if rules.max > 0 { format!(" to {}", rules.max) } else { " or more".into() };
        note(problems, pointer, &format!("must be {}{most}", rules.min));
    }
}

fn wrong_text(rules: &FieldRules, text: &str) -> Option<String> {
    if text.contains('\0') {
        return Some("must not hold a NUL character".into());
    }
    if !rules.one_of.is_empty() && !rules.one_of.iter().any(|o| o == text) {
        let choices: Vec<&str> = rules.one_of.iter().map(String::as_str).filter(|o| !o.is_empty()).collect();
        return Some(format!("must be one of {}", choices.join(", ")));
    }
    if !rules.id.is_empty() {
        return (!text.is_empty() && !is_id(text, &rules.id))
            .then(|| format!("must be an id of the form {}_ and 26 characters", rules.id));
    }
    let length = text.chars().count();
    if length < usize::try_from(rules.min_len).unwrap_or(0) {
        return Some(format!("must have at least {} characters", rules.min_len));
    }
    if rules.max_len > 0 && length > usize::try_from(rules.max_len).unwrap_or(usize::MAX) {
        return Some(format!("must have at most {} characters", rules.max_len));
    }
    if rules.visible && !nitejar_common::text::is_visible(text) {
        return Some(
            "must have something to see, and no control, invisible or direction-changing character"
                .to_owned(),
        );
    }
    (!rules.pattern.is_empty() && !matches_whole(&rules.pattern, text))
        .then(|| format!("must be {}", rules.says))
}

fn note(problems: &mut Vec<Violation>, pointer: &str, detail: &str) {
    if problems.len() < MOST {
        problems.push(Violation { pointer: pointer.to_owned(), detail: detail.to_owned() });
    }
}

/// A field's rules, read once.
pub fn rules(field: &FieldDescriptor) -> FieldRules {
    static KNOWN: LazyLock<Mutex<HashMap<String, FieldRules>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.entry(field.full_name().to_owned()).or_insert_with(|| field_rules(field)).clone()
}

/// Patterns come from our own proto files: there are few, and they are compiled once.
fn matches_whole(pattern: &str, text: &str) -> bool {
    static KNOWN: LazyLock<Mutex<HashMap<String, Option<Regex>>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let regex =
        known.entry(pattern.to_owned()).or_insert_with(|| Regex::new(&format!("^(?:{pattern})$")).ok());
    regex.as_ref().is_some_and(|r| r.is_match(text))
}

/// Whether the field's JSON is a whole number.
pub fn is_integer(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Int32
            | Kind::Sint32
            | Kind::Sfixed32
            | Kind::Uint32
            | Kind::Fixed32
            | Kind::Int64
            | Kind::Sint64
            | Kind::Sfixed64
            | Kind::Uint64
            | Kind::Fixed64
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_in_the_proto_files_compiles() {
        let mut seen = 0;
        for message in nitejar_proto::POOL.all_messages() {
            for field in message.fields() {
                let pattern = field_rules(&field).pattern;
                if !pattern.is_empty() {
                    seen += 1;
                    assert!(
                        Regex::new(&format!("^(?:{pattern})$")).is_ok(),
                        "{}: {pattern}",
                        field.full_name()
                    );
                }
            }
        }
        assert!(seen > 5);
    }

    /// Whatever is shown by its name looks everywhere like what it is.
    #[test]
    fn names_are_visible() {
        let mut names = 0;
        for message in nitejar_proto::POOL.all_messages().filter(|m| m.name().ends_with("Request")) {
            let named = ["CreateDomainRequest", "PutSecretRequest"];
            for field in message.fields().filter(|f| f.name() == "name" && !named.contains(&message.name())) {
                let rules = field_rules(&field);
                assert!(rules.visible || !rules.pattern.is_empty(), "{}", field.full_name());
                names += usize::from(rules.visible);
            }
        }
        assert!(names >= 10, "{names}");
        let rules = FieldRules { visible: true, ..FieldRules::default() };
        assert_eq!(wrong_text(&rules, "Ada \u{65e5}"), None);
        assert!(wrong_text(&rules, "a\u{202e}b").is_some());
        assert!(wrong_text(&rules, " ").is_some());
    }

    /// An address is one everywhere, or nowhere.
    #[test]
    fn there_is_one_pattern_of_addresses() {
        let mut patterns = std::collections::BTreeSet::new();
        for message in nitejar_proto::POOL.all_messages() {
            let asked = message.name().ends_with("Request") || message.name() == "OrgSettings";
            for field in message.fields().filter(|field| asked && field.name().ends_with("email")) {
                let pattern = field_rules(&field).pattern;
                // What may be absent may be empty.
                let whole = pattern.strip_prefix("(?:").and_then(|p| p.strip_suffix(")?")).map(str::to_owned);
                patterns.insert(whole.unwrap_or(pattern));
            }
        }
        assert_eq!(patterns.len(), 1, "{patterns:?}");
        let pattern = patterns.first().unwrap();
        let tried = "a . - _ ä @ b.c @b.de a@b a@b. a@.b a@b.c a.b@c.d a..b@c.de .a@b.de a.@b.de a@b..c a@-b.de a@b-.de a@b-c.de \
                     o'n+x@1.2.c a@b@c.d a@b_c.de ä@b.de a@ä.de a!#$%&'*+/=?^_`{|}~-b@x.yz a@b.de,c@d.de <a@b.de> a@[1.2.3.4]";
        for text in tried.split(' ').chain(["", "a b@c.de", "a@b.de\n"]) {
            assert_eq!(matches_whole(pattern, text), nitejar_common::text::is_address(text), "{text:?}");
        }
    }
}

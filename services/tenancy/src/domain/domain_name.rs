//! Names of domains that an organization may claim: in one form, nobody's but its own, and not made to look like another.

use nitejar_common::error::{Error, Result};
use unicode_security::RestrictionLevel;
use unicode_security::confusable_detection::skeleton;
use unicode_security::restriction_level::RestrictionLevelDetection as _;

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};

/// Domains that an organization may have.
pub const MOST: i64 = 20;

/// Top-level names that are nobody's in the public DNS (RFC 6761 and its followers).
const SPECIAL: &[&str] = &[
    "alt",
    "arpa",
    "corp",
    "example",
    "home",
    "internal",
    "invalid",
    "lan",
    "local",
    "localhost",
    "onion",
    "test",
];

/// `name` lines of the list, without its comment.
const PROVIDERS: &str = include_str!("mail_providers.txt");

/// The form in which domains are compared and kept: ASCII, lower case, as the DNS asks for it.
pub fn normalized(text: &str) -> Result<String> {
    let text = text.trim();
    let ascii = Uts46::new()
        .to_ascii(text.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
        .map_err(|_| wrong("such as example.com: at most 253 characters, and no dot at the end"))?
        .into_owned();
    let labels: Vec<&str> = ascii.split('.').collect();
    let top = labels.last().copied().unwrap_or_default();
    if labels.len() < 2 {
        return Err(wrong("with at least two parts, such as example.com"));
    }
    // No top-level name begins with a digit; an address of four numbers, in whatever notation, does.
    if top.starts_with(|c: char| c.is_ascii_digit()) || SPECIAL.contains(&top) {
        return Err(wrong("that the public DNS has"));
    }
    if deceives(&unicode(&ascii), top) {
        return Err(wrong("whose letters are of one script, and do not look like other ones"));
    }
    let Some(registered) = psl::domain_str(&ascii) else {
        return Err(wrong("below a public suffix, not one"));
    };
    if is_provider(registered) {
        return Err(wrong("and none where everybody can have an address"));
    }
    Ok(ascii)
}

/// The same name for people to read.
pub fn unicode(ascii: &str) -> String {
    Uts46::new().to_unicode(ascii.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast).0.into_owned()
}

/// Whether one of its labels mixes scripts as no language does, or looks as if it were Latin, and is not.
fn deceives(unicode: &str, top: &str) -> bool {
    let latin_top = !top.starts_with("xn--");
    unicode.split('.').filter(|label| !label.is_ascii()).any(|label| {
        let mixed = !label.check_restriction_level(RestrictionLevel::HighlyRestrictive);
        mixed || (latin_top && skeleton(label).all(|c| c.is_ascii()))
    })
}

fn is_provider(registered: &str) -> bool {
    let name = registered.split('.').next().unwrap_or_default();
    PROVIDERS.lines().filter(|line| !line.starts_with('#')).any(|line| match line.strip_suffix(".*") {
        Some(everywhere) => everywhere == name,
        None => line == registered,
    })
}

fn wrong(must: &str) -> Error {
    Error::invalid("/name", format!("must be a domain of your own {must}"))
}

/// What the DNS must say: name and text of a TXT record.
pub fn challenge(name: &str, token: &str) -> (String, String) {
    (format!("_nitejar-challenge.{name}"), format!("nitejar-verification={token}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_has_one_form() {
        for (text, ascii, shown) in [
            ("example.com", "example.com", "example.com"),
            (" Acme.Example.COM ", "acme.example.com", "acme.example.com"),
            ("bücher.example.com", "xn--bcher-kva.example.com", "bücher.example.com"),
            ("BU\u{308}CHER.example.com", "xn--bcher-kva.example.com", "bücher.example.com"),
            ("xn--bcher-kva.example.com", "xn--bcher-kva.example.com", "bücher.example.com"),
            ("例え.jp", "xn--r8jz45g.jp", "例え.jp"),
            ("пример.рф", "xn--e1afmkfd.xn--p1ai", "пример.рф"),
            ("acme。com", "acme.com", "acme.com"),
            ("acme.github.io", "acme.github.io", "acme.github.io"),
            ("liveacme.com", "liveacme.com", "liveacme.com"),
        ] {
            assert_eq!(normalized(text).map_err(|e| e.log_text()), Ok(ascii.to_owned()), "{text}");
            assert_eq!(unicode(ascii), shown);
        }
    }

    #[test]
    fn what_is_no_domain_of_ones_own_is_refused() {
        let long = format!("{}.com", vec!["a".repeat(60); 5].join("."));
        let label = format!("{}.com", "a".repeat(64));
        for text in [
            // Of no form.
            "",
            "com",
            "localhost",
            "a..com",
            ".acme.com",
            "acme.com.",
            "-acme.com",
            "acme-.com",
            "ac me.com",
            "a_b.com",
            "http://acme.com",
            "acme.com/x",
            "acme.com:443",
            "ada@acme.com",
            "acme.com\0",
            "acme\n.com",
            "*.acme.com",
            "xn--a.com",
            "xn--.com",
            long.as_str(),
            label.as_str(),
            // Addresses.
            "127.0.0.1",
            "10.1",
            "0x7f.1",
            "1.2.3.0x4",
            "[::1]",
            "::1",
            "١٢٧.0.0.1",
            // Nobody's.
            "acme.localhost",
            "acme.local",
            "acme.test",
            "acme.invalid",
            "acme.onion",
            "1.0.0.127.in-addr.arpa",
            // Everybody's.
            "co.uk",
            "github.io",
            "公司.cn",
            "xn--55qx5d.cn",
            "x.kawasaki.jp",
            "gmail.com",
            "GMAIL.com",
            "mail.gmail.com",
            "googlemail.com",
            "hotmail.co.uk",
            "outlook.com",
            "yahoo.co.jp",
            "x.y.yahoo.fr",
            "icloud.com",
            "proton.me",
            "gmx.net",
            "web.de",
            "mail.ru",
            "qq.com",
            "163.com",
            "aol.com",
            "zoho.eu",
            "fastmail.fm",
            "yandex.com.tr",
            "live.com",
            // Made to look like another's: one Cyrillic letter, all of them, Greek ones.
            "аcme.com",
            "xn--cme-7cd.com",
            "аррӏе.com",
            "xn--80ak6aa92e.com",
            "αcme.com",
            "gооgle.com",
            "ac\u{200d}me.com",
        ] {
            assert!(normalized(text).is_err(), "{text:?} is {:?}", normalized(text).unwrap_or_default());
        }
    }

    #[test]
    fn the_list_of_providers_is_one() {
        let lines: Vec<&str> = PROVIDERS.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(lines.len() > 100);
        for line in lines {
            let name = line.replace(".*", ".com");
            assert_eq!(psl::domain_str(&name), Some(name.as_str()), "{line} is no registered domain");
        }
    }
}

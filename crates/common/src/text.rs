//! Texts for people to read.

/// Whether a character hides, breaks a line, or turns text around: none stands in a name. The patterns of names in the proto files
/// refuse the same ones; a test of the gateway holds them to it.
pub fn hides(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
        )
}

/// Whether it is an e-mail address that mail can be sent to: ASCII, words with single dots between them, at a host with a dot in
/// its name. The pattern of addresses in the proto files says the same, but for the length of what stands before the `@`.
pub fn is_address(text: &str) -> bool {
    let Some((user, host)) = text.split_once('@') else { return false };
    let of_word = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~-".contains(&b);
    let word = |word: &str| !word.is_empty() && word.bytes().all(of_word);
    let of_label = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(of_label)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 254
        && user.len() <= 64
        && user.split('.').all(word)
        && host.contains('.')
        && host.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_ones_that_mail_can_be_sent_to() {
        let (long, longer) =
            (format!("{}@example.com", "a".repeat(64)), format!("{}@example.com", "a".repeat(65)));
        for good in
            ["ada@example.com", "A.b+c@sub.example.co", "o'neil@1.de", "!#$%&'*+/=?^_`{|}~-@x.y", &long]
        {
            assert!(is_address(good), "{good:?}");
        }
        let host = format!("a@{}.de", "b".repeat(64));
        for wrong in [
            "",
            "a",
            "a@",
            "@b.c",
            "a@b",
            "a@b.",
            "a@.b",
            "a@b..c",
            "a@b@c.d",
            "a b@c.d",
            "a\u{7}@b.c",
            "a..b@c.de",
            ".a@b.de",
            "a.@b.de",
            "ä@b.de",
            "a@bücher.de",
            "a@-b.de",
            "a@b-.de",
            "a@b_c.de",
            "\u{212a}@b.de",
            "a@b.de ",
            &longer,
            &host,
        ] {
            assert!(!is_address(wrong), "{wrong:?}");
        }
    }
}

//! Texts for people to read.

/// What shows nothing, breaks a line, or turns text around.
const HIDDEN: &[(char, char)] = &[
    ('\0', '\u{1f}'),
    ('\u{7f}', '\u{9f}'),
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fdd0}', '\u{fdef}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{fffe}', '\u{ffff}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// Whether a character hides, breaks a line, or turns text around: none stands in a name.
pub fn hides(c: char) -> bool {
    // The last two of each plane are no characters.
    HIDDEN.iter().any(|(first, last)| (*first..=*last).contains(&c)) || u32::from(c) & 0xfffe == 0xfffe
}

/// Whether something of a text shows, and nothing of it hides.
pub fn is_visible(text: &str) -> bool {
    // A variation selector says how what stands before it is drawn.
    let shows = |c: char| !c.is_whitespace() && !('\u{fe00}'..='\u{fe0f}').contains(&c);
    text.chars().any(shows) && !text.chars().any(hides)
}

/// The same as a regular expression, for readers of the API's description. They write a character beyond U+FFFF each in its own
/// way, so those are not in it.
pub fn visible_pattern() -> String {
    let hidden: String = HIDDEN
        .iter()
        .filter(|(_, last)| *last <= '\u{ffff}')
        .map(|(first, last)| format!("\\u{:04x}-\\u{:04x}", u32::from(*first), u32::from(*last)))
        .collect();
    format!("[^{hidden}]*[^{hidden}\\s\\ufe00-\\ufe0f][^{hidden}]*")
}

/// Whether it is an e-mail address that mail can be sent to: ASCII, words with single dots between them, at a host with a dot in
/// its name that does not end in a number, as IP addresses do. The pattern of addresses in the proto files says the same, but for
/// that and the length of what stands before the `@`.
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
        && !host.rsplit('.').next().is_some_and(|top| top.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_show_and_hide_nothing() {
        for good in ["Ada", "A b", "日本", "Ärzte & Söhne", "\u{2764}\u{fe0f}", "a\u{a0}b"] {
            assert!(is_visible(good), "{good:?}");
        }
        for wrong in [
            "",
            " ",
            "\u{3000}",
            "\u{3164}",
            "\u{115f}",
            "\u{ffa0}",
            "\u{ad}",
            "\u{2800}",
            "\u{180e}",
            "\u{34f}",
            "a\u{17b4}b",
            "a\u{fff9}b",
            "a\u{1d173}b",
            "a\u{1bca0}b",
            "a\u{13430}b",
            "a\u{fdd0}b",
            "a\u{1fffe}b",
            "a\u{fffe}b",
            "a\u{e0041}b",
            "a\u{202e}b",
            "a\u{200b}b",
            "a\nb",
            "a\0b",
            "a\u{7f}b",
        ] {
            assert!(!is_visible(wrong), "{wrong:?}");
        }
        assert!(visible_pattern().starts_with("[^\\u0000-\\u001f\\u007f-\\u009f\\u00ad-\\u00ad"));
    }

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
            "a@1.2.3.4",
            &longer,
            &host,
        ] {
            assert!(!is_address(wrong), "{wrong:?}");
        }
    }
}

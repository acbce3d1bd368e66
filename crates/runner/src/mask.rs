//! Keeps secrets out of what a job writes.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

/// Replaces secret values, and their base64, by `***`.
#[derive(Clone, Debug, Default)]
pub struct Mask(Vec<String>);

/// Shorter values would tear holes into everything.
const SHORTEST: usize = 4;

impl Mask {
    /// For these values; each line of a value counts too, since output comes in lines.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut all = Vec::new();
        for value in values {
            let pieces = std::iter::once(value).chain(value.lines()).map(str::trim);
            for piece in pieces.filter(|p| p.len() >= SHORTEST) {
                all.push(piece.to_owned());
                for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
                    all.push(engine.encode(piece));
                }
            }
        }
        // The longest first: a value that holds another one is replaced as a whole.
        all.sort_by_key(|s| std::cmp::Reverse(s.len()));
        all.dedup();
        Self(all)
    }

    /// The text without them.
    pub fn apply(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for secret in &self.0 {
            if out.contains(secret.as_str()) {
                out = out.replace(secret.as_str(), "***");
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_their_lines_and_their_base64_are_masked() {
        let mask = Mask::new(["hunter2", "line one\nline two", "abc"]);
        assert_eq!(mask.apply("a hunter2 b"), "a *** b");
        assert_eq!(mask.apply(&format!("x {} y", STANDARD.encode("hunter2"))), "x *** y");
        assert_eq!(mask.apply("see line two"), "see ***");
        assert_eq!(mask.apply("abc"), "abc", "too short to mask");
    }
}

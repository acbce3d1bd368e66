//! Page tokens: where the next page begins, opaque to callers.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::{Code, Error, Result};

/// How many to read: the caller's wish within `1..=max`, `default` when there is none.
pub fn size(wish: u32, default: u32, max: u32) -> i64 {
    i64::from(if wish == 0 { default } else { wish.min(max) })
}

/// The token that continues after `last`.
pub fn token_after(last: &str) -> String {
    URL_SAFE_NO_PAD.encode(last)
}

/// Where a token continues; empty for the first page.
pub fn after(token: &str) -> Result<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    bytes.and_then(|b| String::from_utf8(b).ok()).filter(|t| t.len() <= 128 && !t.contains('\0')).ok_or_else(
        || {
            Error::new(Code::InvalidArgument, "This page token is not one of ours.")
                .violation("/page_token", "must be a next_page_token of an earlier answer")
        },
    )
}

/// Cuts what was read with one row more than `size` to the page, and gives the next page's token.
pub fn cut<T>(mut rows: Vec<T>, size: i64, key: impl Fn(&T) -> String) -> (Vec<T>, String) {
    let size = usize::try_from(size).unwrap_or(0);
    if rows.len() <= size {
        return (rows, String::new());
    }
    rows.truncate(size);
    let token = rows.last().map(|row| token_after(&key(row))).unwrap_or_default();
    (rows, token)
}

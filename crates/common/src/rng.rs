//! The one place that asks the system for randomness.

use rand::TryRng as _;

/// `N` random bytes, fit for keys.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    rand::rngs::SysRng
        .try_fill_bytes(&mut out)
        .expect("the system has a random source; nothing is safe without one");
    out
}

/// A number in `0..bound`, for jitter and sampling; 0 when the bound is 0.
pub fn below(bound: u64) -> u64 {
    if bound == 0 { 0 } else { u64::from_le_bytes(bytes()) % bound }
}

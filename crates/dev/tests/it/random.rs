//! Random deeds that can be repeated: the same seed, the same deeds.

/// `NITEJAR_SEED`, or another one each time.
pub(crate) fn seed() -> u64 {
    match std::env::var("NITEJAR_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => nitejar_common::rng::below(u64::MAX),
    }
}

/// Numbers below what it is asked with, by xorshift.
pub(crate) fn picker(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

//! sprites

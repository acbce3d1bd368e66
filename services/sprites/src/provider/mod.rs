//! The seam to machines: where Sprites live. Every step may be repeated; a Sprite is named by its id alone.

mod local;
mod none;

use std::collections::BTreeSet;

use futures_util::future::BoxFuture;
use nitejar_common::error::Result;

pub use local::LocalProvider;
pub use none::NoProvider;

/// What a Sprite's runner needs to start.
#[derive(Clone, Debug)]
pub struct Start {
    /// `sprite_…`
    pub sprite: String,
    /// `njr_…`
    pub token: nitejar_common::secret::Secret,
    /// Jobs at the same time.
    pub concurrency: i32,
}

/// Where Sprites live.
pub trait SpriteProvider: Send + Sync {
    /// `local`, `none`, …
    fn name(&self) -> &'static str;
    /// Makes the machine's place; it does not run yet.
    fn provision<'a>(&'a self, sprite: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Starts its runner, with this token and no other: one that runs already is replaced.
    fn start<'a>(&'a self, start: &'a Start) -> BoxFuture<'a, Result<()>>;
    /// Stops its runner and everything that ran in it. What it kept stays.
    fn stop<'a>(&'a self, sprite: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Stops it and removes what it kept.
    fn destroy<'a>(&'a self, sprite: &'a str) -> BoxFuture<'a, Result<()>>;
    /// The Sprites whose runner runs now.
    fn running(&self) -> BoxFuture<'_, Result<BTreeSet<String>>>;
    /// Every Sprite that has a place here, running or not.
    fn all(&self) -> BoxFuture<'_, Result<BTreeSet<String>>>;
}

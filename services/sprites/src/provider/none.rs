//! No machines. The API, webhooks and the queue work; jobs wait until there is a provider.

use std::collections::BTreeSet;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use nitejar_common::error::{Error, Result};

use super::{SpriteProvider, Start};

/// Has no machines, and never starts one.
#[derive(Clone, Copy, Debug)]
pub struct NoProvider;

impl SpriteProvider for NoProvider {
    fn name(&self) -> &'static str {
        "none"
    }

    fn provision<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn start<'a>(&'a self, _: &'a Start) -> BoxFuture<'a, Result<()>> {
        async { Err(Error::unavailable().because("provider.kind is none: there are no machines")) }.boxed()
    }

    fn stop<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn destroy<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn running(&self) -> BoxFuture<'_, Result<BTreeSet<String>>> {
        async { Ok(BTreeSet::new()) }.boxed()
    }

    fn all(&self) -> BoxFuture<'_, Result<BTreeSet<String>>> {
        async { Ok(BTreeSet::new()) }.boxed()
    }
}

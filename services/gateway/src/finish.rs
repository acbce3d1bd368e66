//! Work that is finished even when nobody waits for it any more.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use nitejar_common::error::{Error, Result};

/// Runs as a part of whoever waits for it, which costs no task; when they go away in the middle, it becomes a task of its own
/// and goes on. A panic in it is an error here.
pub(crate) struct Finished<T: Send + 'static>(Option<BoxFuture<'static, Result<T>>>);

impl<T: Send + 'static> Finished<T> {
    pub(crate) fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        let work = AssertUnwindSafe(work).catch_unwind();
        Self(Some(Box::pin(work.map(|done| done.map_err(|_| Error::internal("a request panicked"))))))
    }
}

impl<T: Send + 'static> Future for Finished<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let Some(work) = self.0.as_mut() else {
            return Poll::Ready(Err(Error::internal("asked again after the answer")));
        };
        let polled = work.as_mut().poll(cx);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Finished<T> {
    fn drop(&mut self) {
        // Without a runtime the process is ending.
        if let (Some(rest), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn goes_on_when_nobody_waits_any_more() {
        let (go_on, wait) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel::<u32>();
        let work = Finished::new(async move {
            wait.await.unwrap();
            done.send(7).unwrap();
        });
        // Begun, then left alone.
        assert!(tokio::time::timeout(Duration::from_millis(20), work).await.is_err());
        go_on.send(()).unwrap();
        assert_eq!(ended.await.unwrap(), 7);
    }

    #[tokio::test]
    async fn work_that_nobody_ever_waited_for_is_done_too() {
        let (done, ended) = oneshot::channel::<u32>();
        drop(Finished::new(async move { done.send(7).unwrap() }));
        assert_eq!(ended.await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        assert_eq!(Finished::new(async { 1 }).await.unwrap(), 1);
        let broken = Finished::new(async {
            tokio::task::yield_now().await;
            panic!("on purpose")
        });
        assert!(broken.await.map(|(): ()| ()).unwrap_err().log_text().contains("panicked"));
    }
}

//! The gateway's port: bounds on what a connection may cost before a request exists, and draining.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use nitejar_common::error::Result;
use nitejar_runtime::lifecycle::Shutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::address::Peer;
use crate::unread;

/// A head may have about so many bytes (what has arrived is read to its end) and so many lines. More is answered with 431.
const HEAD_BYTES: usize = 64 << 10;
const HEAD_LINES: usize = 100;
/// How long requests under way may take once draining began; long polls and streams of clients that never leave would
/// hold us up for ever.
const LEAVE: Duration = Duration::from_secs(5);

/// What connections may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// A connection on which no whole head arrives for so long is closed: slow senders and idle ones.
    pub(crate) idle: Duration,
    /// More connections wait in the kernel's queue.
    pub(crate) connections: usize,
}

/// Serves until the shutdown, then drains.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    shutdown: Shutdown,
) -> Result<()> {
    // HTTP/1 only, as load balancers speak it to what is behind them: telling the versions apart would mean to wait, without
    // a bound, for a first byte.
    let mut http = Builder::new(TokioExecutor::new()).http1_only();
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.idle)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_LINES);
    let places = Arc::new(Semaphore::new(bounds.connections));
    let draining = GracefulShutdown::new();
    loop {
        let place = tokio::select! {
            () = shutdown.soft.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place?,
        };
        let accepted = tokio::select! {
            () = shutdown.soft.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok((socket, peer)) => (socket, Peer(peer.ip())),
            Err(error) => {
                // Such as too many open files: it passes when others leave.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = socket.set_nodelay(true);
        let router = router.clone();
        let service = TowerToHyperService::new(tower::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            unread::answer(router.clone(), request)
        }));
        let connection = http.serve_connection(TokioIo::new(socket), service).into_owned();
        let connection = draining.watch(connection);
        tokio::spawn(async move {
            // What ends it is the client's business: a broken pipe, a timeout, something that is no HTTP.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    tokio::select! {
        () = draining.shutdown() => {}
        () = shutdown.hard.cancelled() => {}
        () = tokio::time::sleep(LEAVE) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::Notify;

    use super::*;

    type Served = (SocketAddr, Shutdown, tokio::task::JoinHandle<Result<()>>);

    async fn start(bounds: Bounds) -> Served {
        let router = Router::new().route("/", get(async || "ok"));
        serve_router(router, bounds).await
    }

    async fn serve_router(router: Router, bounds: Bounds) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let served = tokio::spawn(serve(listener, router, bounds, shutdown.clone()));
        (addr, shutdown, served)
    }

    async fn say(addr: SocketAddr, text: &str) -> TcpStream {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.write_all(text.as_bytes()).await.unwrap();
        socket
    }

    /// All that comes until the other side closes.
    async fn rest(mut socket: TcpStream) -> String {
        let mut text = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut text)).await;
        // A reset is a way to close, too.
        let _ = read.expect("the connection stays open");
        String::from_utf8_lossy(&text).into_owned()
    }

    const USUAL: Bounds = Bounds { idle: Duration::from_secs(60), connections: 100 };

    #[tokio::test]
    async fn who_sends_no_whole_head_is_sent_away_and_others_are_served() {
        let (addr, ..) = start(Bounds { idle: Duration::from_millis(200), ..USUAL }).await;
        let slow = say(addr, "GET / HTTP/1.1\r\nHost: x\r\nX-A: ").await;
        let idle = say(addr, "").await;
        let good = say(addr, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(rest(good).await.ends_with("ok"));
        assert!(!rest(slow).await.contains("200"));
        assert_eq!(rest(idle).await, "");
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let (addr, ..) = start(USUAL).await;
        let many: String = (0..150).map(|i| format!("X-{i}: a\r\n")).collect();
        let large = format!("X-A: {}\r\n", "a".repeat(HEAD_BYTES * 3));
        for head in [many, large] {
            let answer = rest(say(addr, &format!("GET / HTTP/1.1\r\nHost: x\r\n{head}\r\n")).await).await;
            assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        }
        let answer = rest(say(addr, "this is no HTTP\r\n\r\n").await).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }

    #[tokio::test]
    async fn more_connections_than_allowed_wait() {
        let (addr, ..) = start(Bounds { connections: 2, ..USUAL }).await;
        let holders = [say(addr, "").await, say(addr, "").await];
        let waiting = say(addr, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let mut byte = [0; 1];
        let early = tokio::time::timeout(Duration::from_millis(200), waiting.peek(&mut byte)).await;
        assert!(early.is_err(), "served although all places are taken");
        drop(holders);
        assert!(rest(waiting).await.ends_with("ok"));
    }

    #[tokio::test]
    async fn draining_finishes_what_was_begun_and_takes_nothing_new() {
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, wait) = (Arc::clone(&begun), Arc::clone(&go_on));
        let slow = get(async move || {
            tell.notify_one();
            wait.notified().await;
            "slow"
        });
        let (addr, shutdown, served) = serve_router(Router::new().route("/slow", slow), USUAL).await;
        let under_way = say(addr, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
        begun.notified().await;
        shutdown.begin();
        go_on.notify_one();
        assert!(rest(under_way).await.ends_with("slow"));
        served.await.unwrap().unwrap();
        assert!(TcpStream::connect(addr).await.is_err());
    }

    /// A refusal that comes before the body is read.
    async fn refusing() -> SocketAddr {
        let router = Router::new().fallback(async || http::StatusCode::FORBIDDEN);
        serve_router(router, USUAL).await.0
    }

    /// One answer's head; the answers here have no body.
    async fn head(socket: &mut TcpStream) -> String {
        let mut text = String::new();
        while !text.ends_with("\r\n\r\n") {
            let read = tokio::time::timeout(Duration::from_secs(30), socket.read_u8()).await;
            text.push(char::from(read.expect("no answer").expect("the connection broke")));
        }
        text.to_ascii_lowercase()
    }

    #[tokio::test]
    async fn a_refused_body_that_comes_a_little_later_leaves_the_connection_in_use() {
        let addr = refusing().await;
        let mut socket = say(addr, "").await;
        for lengths in
            ["Content-Length: 4\r\n\r\n|body", "Transfer-Encoding: chunked\r\n\r\n4\r\nbo|dy\r\n0\r\n\r\n"]
        {
            let (first, later) = lengths.split_once('|').unwrap();
            socket.write_all(format!("POST / HTTP/1.1\r\nHost: x\r\n{first}").as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            socket.write_all(later.as_bytes()).await.unwrap();
            let answer = head(&mut socket).await;
            assert!(answer.starts_with("http/1.1 403 ") && !answer.contains("connection: close"), "{answer}");
        }
        socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(head(&mut socket).await.starts_with("http/1.1 403 "));
    }

    #[tokio::test]
    async fn a_refusal_whose_body_does_not_end_says_that_the_connection_does() {
        let addr = refusing().await;
        for rest in ["\r\nbo", "Expect: 100-continue\r\n\r\n"] {
            let sent = format!("Content-Length: 4\r\n{rest}");
            let mut socket = say(addr, &format!("POST / HTTP/1.1\r\nHost: x\r\n{sent}")).await;
            let answer = head(&mut socket).await;
            assert!(answer.starts_with("http/1.1 403 ") && answer.contains("connection: close"), "{answer}");
        }
    }
}

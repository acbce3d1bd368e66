//! Clients that vanish in bursts, thousands that say nothing, heads and paths that are tricks: others notice nothing, and
//! the gateway's memory and sockets return to where they were.

use std::time::Duration;

use nitejar_dev::client::Client;
use nitejar_dev::test_processes::TestProcesses;
use nitejar_dev::test_stack::{TestStack, organization, person, test_tweaks};
use nitejar_runner::procs;
use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::watching::Watcher;
use crate::world::World;

const BURSTS: usize = 15;
const BURST: usize = 200;
/// Or as many as a process may have files, less what it needs itself.
const IDLE: usize = 10_000;

/// Allows this process, and those that it starts, as many files as the machine lets it; answers how many may be idle.
fn room() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let files = maximum.map_or(usize::MAX, |most| usize::try_from(most).unwrap());
    IDLE.min(files.saturating_sub(1_000))
}

fn sockets(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn bursts_of_disconnects_and_thousands_of_idle_clients_disturb_nobody() {
    let many = room();
    let product = TestProcesses::start(&test_tweaks()).await.unwrap();
    let (ada, _) = person(&product.operator, "ada").await.unwrap();
    let org = organization(&ada).await.unwrap();
    let (pid, addr) = (product.split.pid("gateway").unwrap(), product.places.main["gateway"]);
    let path = format!("/v1/orgs/{org}/jobs");
    for _ in 0..200 {
        ada.get(&path).await.unwrap();
    }
    let memory = || procs::one(pid).unwrap().memory >> 20;
    let (before, memory_before) = (sockets(pid), memory());

    let members = format!("/v1/orgs/{org}/members");
    let watchers = [Watcher::start(&ada, &path), Watcher::start(&ada, &members)];
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", ada.key());
    for burst in 0..BURSTS {
        let clients = (0..BURST).map(|i| {
            let head = head.clone();
            tokio::spawn(async move {
                let mut socket = TcpStream::connect(addr).await.unwrap();
                // Some leave in the middle of the head, some before the answer, some while it comes.
                let sent = if i % 3 == 0 { head.len() / 2 } else { head.len() };
                socket.write_all(&head.as_bytes()[..sent]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(((burst + i) % 12) as u64)).await;
                // At once and without a farewell.
                socket.set_zero_linger().unwrap();
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
    }
    // Thousands that connect and say nothing, and some that close only their half.
    let mut idle = Vec::with_capacity(many);
    for _ in 0..many {
        idle.push(TcpStream::connect(addr).await.unwrap());
    }
    for socket in idle.iter_mut().take(500) {
        socket.shutdown().await.unwrap();
    }
    assert_eq!(ada.call(Method::GET, &path, None).await.unwrap().status, 200);
    drop(idle);
    for watcher in watchers {
        let seen = watcher.seen().await;
        assert_eq!(seen.keys().cloned().collect::<Vec<_>>(), [(200, String::new())], "{seen:?}");
    }
    let until = tokio::time::Instant::now() + Duration::from_secs(30);
    while sockets(pid) > before + 20 {
        assert!(tokio::time::Instant::now() < until, "{} sockets, {before} before", sockets(pid));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The allocator gives memory back while it is used.
    let grown = || memory().saturating_sub(memory_before);
    while grown() > 60 {
        assert!(tokio::time::Instant::now() < until, "the gateway keeps {} MiB more", grown());
        assert_eq!(ada.call(Method::GET, &path, None).await.unwrap().status, 200);
    }
    product.stop().await;
}

/// What one connection answers, byte for byte.
async fn raw(addr: std::net::SocketAddr, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn tricks_with_paths_methods_heads_and_encodings_open_nothing() {
    let stack = TestStack::start().await.unwrap();
    let world = World::new(&stack).await;
    let addr = stack.places.main["gateway"];
    let (org, key) = (&world.org, world.owner.key());
    let other = stack.operator().unwrap();
    let (eve, _) = person(&other, "eve").await.unwrap();
    let evil = organization(&eve).await.unwrap();
    let before = world.snapshot().await;

    // No spelling of a path leads past the check of the organization that it names.
    for path in [
        format!("/v1/orgs/{evil}/../{org}/members"),
        format!("/v1/orgs/{evil}/%2e%2e/{org}/members"),
        format!("/v1/orgs/{evil}%2f..%2f{org}/members"),
        format!("/v1/orgs/{org}%00/members"),
        format!("/v1/orgs/{org}%20/members"),
        format!("/v1/orgs/{}/members", org.to_uppercase()),
        format!("//v1/orgs/{org}/members"),
        format!("/v1/orgs/{org}//members"),
        format!("/v1/orgs/{org}/members;x=1"),
        format!("/v1/orgs/{org}\\members"),
        format!("/v1/orgs/{evil}/members?org_id={org}"),
        format!("/v1/orgs/{evil}/members#/../{org}"),
    ] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
            eve.key()
        );
        let answer = raw(addr, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 4") || !answer.contains(&world.member_id), "{path}: {answer}");
        assert!(
            !answer.contains("@example.com\",\"name\":\"owner") || answer.contains("eve-"),
            "{path}: {answer}"
        );
    }
    // A method is what the request line says.
    for header in ["X-HTTP-Method-Override: DELETE", "X-Method-Override: DELETE", "X-HTTP-Method: DELETE"] {
        let path = format!("/v1/orgs/{org}/agents/{}", world.agent);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{header}\r\nConnection: close\r\n\r\n"
        );
        assert!(raw(addr, request.as_bytes()).await.starts_with("HTTP/1.1 200"), "{header}");
    }
    // Two lengths, a length and chunks, and a second request behind the first one's body: none is taken for another's.
    let smuggled =
        format!("GET /v1/orgs/{org}/members HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n");
    for (lengths, body) in [
        ("Content-Length: 4\r\nContent-Length: 400\r\n", "{}  ".to_owned()),
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", format!("0\r\n\r\n{smuggled}")),
        ("Transfer-Encoding: chunked, identity\r\n", format!("0\r\n\r\n{smuggled}")),
        ("Transfer-Encoding : chunked\r\n", format!("0\r\n\r\n{smuggled}")),
    ] {
        let request = format!(
            "POST /v1/orgs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{lengths}\r\n{body}"
        );
        let answer = raw(addr, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{lengths}: {answer}");
        assert!(!answer.contains(&world.member_id), "{lengths}: {answer}");
        assert!(!answer.contains("HTTP/1.1 5"), "{lengths}: {answer}");
    }
    // Bodies that are bombs, or no UTF-8.
    let members = format!("/v1/orgs/{org}/invitations");
    let gzip = world.owner.request(Method::POST, &members).header("content-type", "application/json");
    let gzip =
        Client::send(gzip.header("content-encoding", "gzip").body(vec![0x1f, 0x8b, 8, 0])).await.unwrap();
    assert_eq!((gzip.status, gzip.body["code"].as_str()), (415, Some("unsupported_media_type")));
    for body in [
        b"{\"email\":\"\xff@example.com\",\"role\":\"viewer\"}".to_vec(),
        [b"[".repeat(200_000), b"]".repeat(200_000)].concat(),
    ] {
        let bad =
            world.owner.request(Method::POST, &members).header("content-type", "application/json").body(body);
        let bad = Client::send(bad).await.unwrap();
        assert_eq!((bad.status, bad.body["code"].as_str()), (400, Some("malformed_body")));
    }
    // Sizes of pages beyond all measure.
    for size in ["501", "4294967295", "4294967296", "-1", "1e9"] {
        let page = world
            .owner
            .call(Method::GET, &format!("/v1/orgs/{org}/jobs?page_size={size}"), None)
            .await
            .unwrap();
        assert_eq!(page.status, 400, "{size}");
    }
    assert_eq!(world.snapshot().await, before);
    stack.stop().await.unwrap();
}

/// One answer's status line and headers, in small letters; its body is read and forgotten.
async fn answer(socket: &mut TcpStream) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        let byte = tokio::time::timeout(Duration::from_secs(30), socket.read_u8()).await;
        head.push(char::from(byte.expect("no answer").expect("the connection broke")).to_ascii_lowercase());
    }
    let length = head.split("content-length: ").nth(1).and_then(|text| text.split("\r\n").next());
    let length = length.unwrap_or_else(|| panic!("of what length? {head}")).parse::<usize>().unwrap();
    socket.read_exact(&mut vec![0; length]).await.unwrap();
    head
}

/// A refusal comes before the body is read. Its connection goes on all the same, or it says that it does not: nobody sends
/// their next request on one that breaks.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_body_leaves_the_connection_in_use_or_is_told_that_it_ends() {
    let stack = TestStack::start().await.unwrap();
    let addr = stack.places.main["gateway"];
    let begin = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\n{{"
        )
    };
    // No credential, no such path, another verb's path, no signature.
    let refused =
        [("/v1/orgs", "401"), ("/v1/nothing", "404"), ("/v1/me", "405"), ("/webhooks/github", "401")];
    let mut socket = TcpStream::connect(addr).await.unwrap();
    for (path, status) in refused {
        // What remains of the body comes a little later, as it does from most clients.
        socket.write_all(begin(path).as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        socket.write_all(b"  }").await.unwrap();
        let head = answer(&mut socket).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{path}: {head}");
        assert!(!head.contains("connection: close"), "{path}: {head}");
    }
    for (path, status) in refused {
        // Nothing remains to come: the answer does not wait for ever.
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.write_all(begin(path).as_bytes()).await.unwrap();
        let head = answer(&mut socket).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{path}: {head}");
        assert!(head.contains("connection: close"), "{path}: {head}");
    }
    stack.stop().await.unwrap();
}

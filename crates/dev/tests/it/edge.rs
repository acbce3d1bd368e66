//! HTTP as programs and browsers expect it, beyond the refusals of `bad_input`.

use nitejar_dev::client::Client;
use nitejar_dev::test_stack::TestStack;
use reqwest::Method;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn http_is_spoken_as_it_should_be() {
    let stack = TestStack::start().await.unwrap();
    let world = World::new(&stack).await;
    let org = format!("/v1/orgs/{}", world.org);

    // HEAD is GET without the body.
    let got = world.owner.call(Method::GET, &org, None).await.unwrap();
    let head = world.owner.request(Method::HEAD, &org).send().await.unwrap();
    assert_eq!((head.status().as_u16(), got.status), (200, 200));
    assert_eq!(head.headers()["etag"], got.headers["etag"]);
    assert_eq!(head.headers()["content-length"], got.headers["content-length"]);
    assert!(head.bytes().await.unwrap().is_empty());

    // But what acts is not done by a HEAD, such as a link checker's.
    let setup = world.owner.request(Method::HEAD, "/v1/github/setup?state=x&code=y&installation_id=1");
    assert_eq!(setup.send().await.unwrap().status(), 405);

    // Paths that are no RPC's name their verb too.
    for (verb, path, allow) in
        [(Method::POST, "/openapi.json", "GET"), (Method::GET, "/webhooks/github", "POST")]
    {
        let answer = world.owner.call(verb, path, None).await.unwrap();
        assert_eq!((answer.status, answer.headers["allow"].to_str().unwrap()), (405, allow), "{path}");
        assert_eq!(answer.body["code"], "method_not_allowed");
    }

    // Every answer of the API, good or bad, tells a browser to do nothing with it.
    for path in [org.as_str(), "/v1/nothing", "/openapi.json"] {
        let answer = world.owner.call(Method::GET, path, None).await.unwrap();
        assert_eq!(answer.headers["content-security-policy"], "default-src 'none'; frame-ancestors 'none'");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert!(answer.headers.contains_key("x-request-id") && answer.headers.contains_key("cache-control"));
    }

    // A stream that broke off goes on after the last event that was seen.
    let logs = format!("{org}/jobs/{}/logs", world.job);
    let all = events(&world.owner, &logs, None).await;
    assert!(all.len() >= 2, "{all:?}");
    let (seen, rest) = all.split_at(1);
    assert_eq!(events(&world.owner, &format!("{logs}?after=0"), Some(&seen[0])).await, rest);
    let wrong = world.owner.request(Method::GET, &logs).header("last-event-id", "x");
    let wrong = Client::send(wrong).await.unwrap();
    assert_eq!((wrong.status, wrong.body["errors"][0]["pointer"].as_str()), (400, Some("/Last-Event-ID")));
    stack.stop().await.unwrap();
}

/// The ids of a stream's events.
async fn events(client: &Client, path: &str, last: Option<&str>) -> Vec<String> {
    let mut request = client.request(Method::GET, path);
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let text = request.send().await.unwrap().text().await.unwrap();
    text.lines().filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned).collect()
}

//! Whose address a request comes from.

use std::net::{IpAddr, Ipv4Addr};

use http::HeaderMap;
use http::header::HeaderName;
use ipnet::IpNet;

/// The other end of the connection; `listen` puts it into every request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address that a request came from.
pub(crate) fn of_request<B>(request: &http::Request<B>, proxies: &[IpNet]) -> IpAddr {
    let peer = request.extensions().get::<Peer>().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.0);
    of_caller(peer, request.headers(), proxies)
}

/// The caller's address: the peer's, or, where the peer is one of our proxies, the last one in `X-Forwarded-For` that is not.
/// What stands further left is the caller's own invention.
fn of_caller(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> IpAddr {
    let ours = |address: &IpAddr| proxies.iter().any(|net| net.contains(&address.to_canonical()));
    let lines: Vec<&str> = headers.get_all(FORWARDED).iter().filter_map(|v| v.to_str().ok()).collect();
    let mut caller = peer;
    for hop in lines.iter().flat_map(|line| line.split(',')).rev() {
        if !ours(&caller) {
            break;
        }
        let Ok(address) = hop.trim().parse() else { break };
        caller = address;
    }
    caller
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_our_own_proxies_say_is_believed() {
        let proxies: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let of = |peer: &str, lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED, line.parse().unwrap());
            }
            of_caller(peer.parse().unwrap(), &headers, &proxies).to_string()
        };
        assert_eq!(of("192.0.2.1", &["198.51.100.7"]), "192.0.2.1", "no proxy of ours");
        assert_eq!(of("10.0.0.1", &["1.1.1.1, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(of("10.0.0.1", &["1.1.1.1", "198.51.100.7, 10.2.3.4"]), "198.51.100.7");
        assert_eq!(of("fd00::1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(of("10.0.0.1", &["nonsense"]), "10.0.0.1");
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1");
    }
}

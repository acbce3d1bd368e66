//! Networks that a key may be used from.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use nitejar_common::error::{Error, Result};

/// As CIDR, each once, with nothing beyond the prefix: `203.0.113.7` is `203.0.113.7/32`, and so is `::ffff:203.0.113.7`.
pub fn normalized(texts: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        let net = parse(text).ok_or_else(|| {
            Error::invalid(
                format!("/allowed_networks/{i}"),
                "must be an address or a network such as 203.0.113.0/24",
            )
        })?;
        all.push(net.trunc().to_string());
    }
    all.sort();
    all.dedup();
    Ok(all)
}

/// Whether each address of these networks is one of those. No networks: any address.
pub fn within(these: &[String], those: &[String]) -> bool {
    if those.is_empty() {
        return true;
    }
    // Neighbours are one, so that two halves hold their whole.
    let those = IpNet::aggregate(&those.iter().filter_map(|text| parse(text)).collect());
    let held = |text: &String| parse(text).is_some_and(|net| those.iter().any(|those| those.contains(&net)));
    !these.is_empty() && these.iter().all(held)
}

/// A network, or an address. IPv4 that is written as IPv6 is IPv4, for a caller's address is compared in that form; what is IPv6
/// only in part is none.
fn parse(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    let mapped = match net {
        IpNet::V6(net) => net.addr().to_ipv4_mapped(),
        IpNet::V4(_) => None,
    };
    match mapped {
        None => Some(net),
        Some(v4) => Some(IpNet::V4(Ipv4Net::new(v4, net.prefix_len().checked_sub(96)?).ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_written_in_one_way() {
        let of = |texts: &[&str]| normalized(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            of(&["203.0.113.7", "203.0.113.99/24", "2001:DB8::1"]).unwrap(),
            ["2001:db8::1/128", "203.0.113.0/24", "203.0.113.7/32"]
        );
        assert_eq!(of(&["10.0.0.1/8", "10.9.9.9/8"]).unwrap(), ["10.0.0.0/8"]);
        // Callers' addresses are never IPv4 in the form of IPv6, so neither are networks.
        assert_eq!(
            of(&["::ffff:203.0.113.7", "::ffff:10.1.2.3/104", "::ffff:0:0/96"]).unwrap(),
            ["0.0.0.0/0", "10.0.0.0/8", "203.0.113.7/32"]
        );
        for wrong in
            ["", "10.0.0.0/33", "example.com", "10.0.0", "::/129", "::ffff:10.0.0.0/95", "::ffff:0:0/80"]
        {
            assert!(of(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks_lie_within_others() {
        let is = |these: &[&str], those: &[&str]| {
            let texts = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
            within(&texts(these), &texts(those))
        };
        assert!(is(&[], &[]) && is(&["10.0.0.0/8"], &[]) && is(&["10.0.0.0/8"], &["10.0.0.0/8"]));
        assert!(is(&["10.1.0.0/16", "2001:db8::1/128"], &["10.0.0.0/8", "2001:db8::/32"]));
        assert!(is(&["10.0.0.0/8"], &["10.0.0.0/9", "10.128.0.0/9"]), "two halves are the whole");
        assert!(!is(&[], &["10.0.0.0/8"]), "none is everywhere");
        assert!(!is(&["10.0.0.0/7"], &["10.0.0.0/8"]));
        assert!(!is(&["10.0.0.0/8", "192.0.2.0/24"], &["10.0.0.0/8"]));
        assert!(!is(&["10.0.0.0/8"], &["::/0"]));
    }
}

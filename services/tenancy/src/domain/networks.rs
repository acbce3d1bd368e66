//! Networks that a key may be used from.

use std::net::IpAddr;

use ipnet::IpNet;
use nitejar_common::error::{Error, Result};

/// As CIDR, each once, with nothing beyond the prefix: `203.0.113.7` is `203.0.113.7/32`.
pub fn normalized(texts: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let net = net.map_err(|_| {
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
        for wrong in ["", "10.0.0.0/33", "example.com", "10.0.0", "::/129"] {
            assert!(of(&[wrong]).is_err(), "{wrong}");
        }
    }
}

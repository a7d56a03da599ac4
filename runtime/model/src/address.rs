//! Addresses that mean something else to whoever is told them than where they come from.
//!
//! Whoever names one as an instance's, or owns a name and has it lead there, has somebody else connect to itself, to its
//! neighbours on the link, or to where machines are told their secrets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where clouds tell machines their secrets, besides link-local addresses: Azure, Alibaba.
const SECRETS_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];
/// The same of IPv6: Amazon, Google.
const SECRETS_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// Whether nobody may be led to this address by a name: unspecified, loopback, link-local and multicast ones, those of
/// the secrets of clouds, and what of IPv6 stands for such a one of IPv4.
pub fn leads_astray(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => leads_astray_v4(v4),
        IpAddr::V6(v6) => {
            let is_special = v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || SECRETS_V6.contains(&v6);
            is_special || embedded(v6).into_iter().flatten().any(leads_astray_v4)
        }
    }
}

/// Whether a name stands for whoever asks for it (RFC 6761 §6.3).
pub fn is_loopback_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

fn leads_astray_v4(v4: Ipv4Addr) -> bool {
    let is_this_network = v4.octets()[0] == 0;
    is_this_network
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_broadcast()
        || SECRETS_V4.contains(&v4)
}

/// The IPv4 addresses that one of IPv6 may stand for: mapped, compatible (RFC 4291 §2.5.5), translated (RFC 2765 §2.1,
/// RFC 6052, RFC 8215) or 6to4 (RFC 3056).
fn embedded(v6: Ipv6Addr) -> [Option<Ipv4Addr>; 4] {
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => [v4(high, low), None, None, None],
        [0x64, 0xff9b, 1, ..] => translated_locally(v6.octets()),
        _ => [None; 4],
    }
}

/// Of the prefix for local use it is not told how long it is, and so where the address stands (RFC 6052 §2.2): in each
/// place from which on there is nothing but zeros, except one that begins with a zero, which is none.
fn translated_locally(octets: [u8; 16]) -> [Option<Ipv4Addr>; 4] {
    [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], [12, 13, 14, 15]].map(|places: [usize; 4]| {
        let is_last = octets[places[3] + 1..].iter().all(|octet| *octet == 0);
        let v4 = Ipv4Addr::from(places.map(|place| octets[place]));
        Some(v4).filter(|v4| is_last && v4.octets()[0] != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ones_own_are_known() {
        for (name, expect) in [
            ("localhost", true),
            ("LocalHost.", true),
            ("a.localhost", true),
            ("notlocalhost", false),
            ("localhost.a", false),
        ] {
            assert_eq!(is_loopback_name(name), expect, "{name}");
        }
    }

    #[test]
    fn addresses_of_ones_own_lead_astray() {
        let check = |addresses: &[&str], expect: bool| {
            for address in addresses {
                assert_eq!(leads_astray(address.parse().unwrap()), expect, "{address}");
            }
        };
        check(&["169.254.170.2", "169.254.169.254", "127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3"], true);
        check(&["224.0.0.251", "255.255.255.255", "168.63.129.16", "100.100.100.200"], true);
        check(&["::", "::1", "fe80::1", "ff02::1", "fd00:ec2::254", "fd20:ce::254"], true);
        check(&["::ffff:169.254.170.2", "::127.0.0.1", "::ffff:0:169.254.170.2", "2002:a9fe:aa02::1"], true);
        check(&["64:ff9b::169.254.169.254", "64:ff9b:1::169.254.170.2", "64:ff9b:1:2:3:4:127.0.0.1"], true);
        // The same prefix as one of 48, 56 and 64 bits.
        check(&["64:ff9b:1:a9fe:aa:200::", "64:ff9b:1:a9:fe:aa02::", "64:ff9b:1:2:a9:feaa:200:0"], true);
        check(&["10.1.2.3", "192.168.1.1", "172.31.0.5", "192.0.2.1", "128.0.0.1", "169.253.1.1"], false);
        check(
            &["2001:db8::1", "fd00::1", "::ffff:192.0.2.1", "64:ff9b::192.0.2.1", "64:ff9b:1::10.1.2.3"],
            false,
        );
        check(&["64:ff9b:1:c000:2:100::", "64:ff9b:2::169.254.170.2"], false);
    }
}

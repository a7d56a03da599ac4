//! What a resolver outside must not make a task talk to: addresses that mean something else here than where the name
//! was given them.
//!
//! Whoever owns a name can have it lead to the metadata and credentials of a task, or to a service that listens on the
//! task's own loopback address, and have a browser or a server in the task that is sent there by name alone connect to
//! them ("DNS rebinding"). Private addresses (RFC 1918) pass, as they do in a VPC of Amazon's: names of a company's own
//! network lead to them, and whom a task may reach there its security groups say.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::message::{Kind, Record};
use crate::name::Name;

/// Where clouds tell machines their secrets, besides link-local addresses: Azure, Alibaba.
const SECRETS_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];
/// The same of IPv6: Amazon, Google.
const SECRETS_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];
/// Keys of the addresses that a service binding hints at (RFC 9460 §14.3.2).
const HINT_V4: u16 = 4;
const HINT_V6: u16 = 6;

/// Takes out the records with such addresses; tells whether there were any.
pub(crate) fn strip(records: &mut Vec<Record>) -> bool {
    let before = records.len();
    records.retain(|record| !addresses(record).is_none_or(|found| found.into_iter().any(is_kept_back)));
    records.len() < before
}

/// Takes out what does not follow from the question: records of names that it does not lead to. `None` of a chain of
/// aliases that is longer than `links_max` or leads round.
pub(crate) fn follow(asked: &Name, records: Vec<Record>, links_max: usize) -> Option<Vec<Record>> {
    let mut names = HashSet::from([asked.clone()]);
    let mut last = asked.clone();
    // In whichever order the records are.
    while let Some(target) = records.iter().find(|record| record.name == last).and_then(Record::target) {
        if names.len() > links_max || !names.insert(target.clone()) {
            return None;
        }
        last = target;
    }
    Some(records.into_iter().filter(|record| names.contains(&record.name)).collect())
}

/// The addresses that a record gives; `None` if it is not what its type says.
fn addresses(record: &Record) -> Option<Vec<IpAddr>> {
    match record.kind {
        Kind::A => Some(vec![v4(&record.data)?]),
        Kind::AAAA => Some(vec![v6(&record.data)?]),
        Kind::SVCB | Kind::HTTPS => hints(&record.data),
        _ => Some(Vec::new()),
    }
}

/// The addresses of a service binding (RFC 9460 §2.2): a priority, a name, and parameters with a key and a length each.
fn hints(data: &[u8]) -> Option<Vec<IpAddr>> {
    let mut at = 2;
    Name::read(data, &mut at).ok()?;
    let mut rest = data.get(at..)?;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let ([k0, k1, l0, l1], after) = rest.split_first_chunk()?;
        let (value, after) = after.split_at_checked(u16::from_be_bytes([*l0, *l1]).into())?;
        rest = after;
        match u16::from_be_bytes([*k0, *k1]) {
            HINT_V4 => found.extend(value.chunks(4).map(v4).collect::<Option<Vec<_>>>()?),
            HINT_V6 => found.extend(value.chunks(16).map(v6).collect::<Option<Vec<_>>>()?),
            _ => {}
        }
    }
    Some(found)
}

fn v4(data: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(data).ok().map(|octets| Ipv4Addr::from(octets).into())
}

fn v6(data: &[u8]) -> Option<IpAddr> {
    <[u8; 16]>::try_from(data).ok().map(|octets| Ipv6Addr::from(octets).into())
}

fn is_kept_back(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_kept_back_v4(v4),
        IpAddr::V6(v6) => {
            let is_special = v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || SECRETS_V6.contains(&v6);
            is_special || embedded(v6).is_some_and(is_kept_back_v4)
        }
    }
}

fn is_kept_back_v4(v4: Ipv4Addr) -> bool {
    let is_this_network = v4.octets()[0] == 0;
    is_this_network
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_broadcast()
        || SECRETS_V4.contains(&v4)
}

/// The IPv4 address that one of IPv6 stands for: mapped, compatible (RFC 4291 §2.5.5), translated (RFC 6052) or 6to4
/// (RFC 3056).
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    fn record(owner: &str, kind: Kind, data: Vec<u8>) -> Record {
        Record { name: name(owner), kind, ttl_s: 1, data }
    }

    fn alias(owner: &str, target: &str) -> Record {
        record(owner, Kind::CNAME, name(target).as_wire().to_vec())
    }

    #[test]
    fn addresses_of_our_own_are_taken_out() {
        let check = |address: &str, passes: bool| {
            let (kind, data) = match address.parse().unwrap() {
                IpAddr::V4(v4) => (Kind::A, v4.octets().to_vec()),
                IpAddr::V6(v6) => (Kind::AAAA, v6.octets().to_vec()),
            };
            let mut records = vec![record("a", kind, data)];
            assert_eq!(strip(&mut records), !passes, "{address}");
            assert_eq!(records.len(), usize::from(passes), "{address}");
        };
        for address in ["169.254.170.2", "169.254.169.254", "127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3"] {
            check(address, false);
        }
        for address in ["224.0.0.251", "255.255.255.255", "168.63.129.16", "100.100.100.200"] {
            check(address, false);
        }
        for address in ["::", "::1", "fe80::1", "ff02::1", "fd00:ec2::254", "fd20:ce::254"] {
            check(address, false);
        }
        for address in
            ["::ffff:169.254.170.2", "::127.0.0.1", "64:ff9b::169.254.169.254", "2002:a9fe:aa02::1"]
        {
            check(address, false);
        }
        for address in ["10.1.2.3", "192.168.1.1", "172.31.0.5", "192.0.2.1", "128.0.0.1", "169.253.1.1"] {
            check(address, true);
        }
        for address in ["2001:db8::1", "fd00::1", "::ffff:192.0.2.1", "64:ff9b::192.0.2.1"] {
            check(address, true);
        }
    }

    #[test]
    fn hints_of_services_are_looked_at() {
        let check = |parameters: &[u8], passes: bool| {
            let data = [&b"\0\x01\0"[..], parameters].concat();
            assert_eq!(!strip(&mut vec![record("a", Kind::HTTPS, data)]), passes, "{parameters:?}");
        };
        check(b"", true);
        check(b"\0\x01\0\x03\x02h2", true);
        check(b"\0\x04\0\x08\xc0\0\x02\x01\xc0\0\x02\x02", true);
        check(b"\0\x04\0\x08\xc0\0\x02\x01\xa9\xfe\xaa\x02", false);
        check(b"\0\x06\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01", false);
        // Not what it says.
        check(b"\0\x04\0\x03\xc0\0\x02", false);
        check(b"\0\x04\0\x08\xc0\0", false);
        assert!(strip(&mut vec![record("a", Kind::A, vec![1, 2, 3])]));
    }

    #[test]
    fn answers_follow_from_the_question() {
        let a = |owner: &str| record(owner, Kind::A, vec![192, 0, 2, 1]);
        let check = |records: Vec<Record>, expect: Option<usize>| {
            let kept = follow(&name("a"), records.clone(), 3).map(|kept| kept.len());
            assert_eq!(kept, expect, "{records:?}");
        };
        check(vec![a("a"), a("A"), a("b")], Some(2));
        check(vec![a("c"), alias("b", "c"), alias("a", "b"), a("d")], Some(3));
        check(vec![alias("a", "b"), alias("b", "c"), alias("c", "d"), a("d")], Some(4));
        check(vec![alias("a", "b"), alias("b", "c"), alias("c", "d"), alias("d", "e")], None);
        check(vec![alias("a", "b"), alias("b", "a")], None);
        check(vec![alias("a", "a")], None);
        check(vec![], Some(0));
    }
}

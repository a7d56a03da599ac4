//! What a resolver outside must not make a task talk to: addresses that mean something else here than where the name
//! was given them.
//!
//! Whoever owns a name can have it lead to the metadata and credentials of a task, or to a service that listens on the
//! task's own loopback address, and have a browser or a server in the task that is sent there by name alone connect to
//! them ("DNS rebinding"). Private addresses (RFC 1918) pass, as they do in a VPC of Amazon's: names of a company's own
//! network lead to them, and whom a task may reach there its security groups say.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use neargate_model::address::{is_loopback_name, leads_astray};

use crate::message::{Kind, Record};
use crate::name::Name;

/// Keys of the addresses that a service binding hints at (RFC 9460 §14.3.2).
const HINT_V4: u16 = 4;
const HINT_V6: u16 = 6;

/// Takes out the records with such addresses, and those that lead to a name for one; tells whether there were any.
pub(crate) fn strip(records: &mut Vec<Record>) -> bool {
    let before = records.len();
    records.retain(|record| {
        let is_harmless = |found: Vec<IpAddr>| !found.into_iter().any(leads_astray);
        addresses(record).is_some_and(is_harmless) && !leads_to(record).is_some_and(|name| is_loopback(&name))
    });
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
pub(crate) fn addresses(record: &Record) -> Option<Vec<IpAddr>> {
    match record.kind {
        Kind::A => Some(vec![v4(&record.data)?]),
        Kind::AAAA => Some(vec![v6(&record.data)?]),
        Kind::SVCB | Kind::HTTPS => hints(&record.data),
        _ => Some(Vec::new()),
    }
}

/// The name at which a record says that something is.
fn leads_to(record: &Record) -> Option<Name> {
    let mut at = match record.kind {
        Kind::CNAME => 0,
        Kind::SVCB | Kind::HTTPS => 2,
        Kind::SRV => 6,
        _ => return None,
    };
    Name::read(&record.data, &mut at).ok()
}

/// Whether a name stands for whoever asks.
pub(crate) fn is_loopback(name: &Name) -> bool {
    name.to_text().is_some_and(|text| is_loopback_name(&text))
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
        let check = |kind: Kind, data: &[u8], passes: bool| {
            let mut records = vec![record("a", kind, data.to_vec())];
            assert_eq!(strip(&mut records), !passes, "{data:?}");
            assert_eq!(records.len(), usize::from(passes), "{data:?}");
        };
        check(Kind::A, &[169, 254, 170, 2], false);
        check(Kind::A, &[192, 0, 2, 1], true);
        check(Kind::AAAA, &Ipv6Addr::LOCALHOST.octets(), false);
        check(Kind::AAAA, &Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets(), false);
    }

    #[test]
    fn names_of_our_own_are_taken_out() {
        let check = |kind: Kind, before: &[u8], target: &str, passes: bool| {
            let data = [before, name(target).as_wire()].concat();
            assert_eq!(!strip(&mut vec![record("a", kind, data)]), passes, "{kind:?} {target}");
        };
        for (target, passes) in
            [("localhost", false), ("LOCALHOST", false), ("a.localhost", false), ("b", true)]
        {
            check(Kind::CNAME, b"", target, passes);
            check(Kind::SRV, b"\0\x01\0\x01\0\x50", target, passes);
            check(Kind::HTTPS, b"\0\0", target, passes);
        }
        check(Kind::PTR, b"", "localhost", true);
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

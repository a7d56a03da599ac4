//! The names that are ours to answer, as records.

use std::net::{IpAddr, Ipv4Addr};

use neargate_model::names::{PrivateAnswer, PrivateData, RecordKind};

use crate::message::{Answer, Code, Kind, Question, Record};
use crate::name::Name;
use crate::{PrivateNames, guard};

/// What is said of a name.
pub(crate) enum Private {
    /// It is in a zone of ours.
    Ours(Answer),
    /// It is in none.
    Elsewhere,
}

/// Numbers of the start of a zone (RFC 1035 §3.3.13) that nobody acts on: there is no second server.
const SOA_NUMBERS: [u32; 4] = [1, 7_200, 900, 1_209_600];

/// Looks a name up for a task.
pub(crate) fn look_up(names: &dyn PrivateNames, client: Ipv4Addr, question: &Question) -> Private {
    let Some(text) = question.name.to_text() else { return Private::Elsewhere };
    // Nobody outside is asked for it (RFC 6761 §6.3), and nobody outside may say where it is.
    if guard::is_loopback(&question.name) {
        return Private::Ours(loopback(question));
    }
    match names.look_up(client, &text, kind(question.kind)) {
        PrivateAnswer::Elsewhere => Private::Elsewhere,
        PrivateAnswer::Found(found) => {
            let records = found.into_iter().filter_map(|found| record(question, found.ttl_s, &found.data));
            Private::Ours(Answer {
                is_authoritative: true,
                records: records.collect(),
                ..Answer::bare(Code::OK)
            })
        }
        PrivateAnswer::NoSuchRecord(zone) => Private::Ours(nothing(Code::OK, &zone.name, zone.ttl_s)),
        PrivateAnswer::NoSuchName(zone) => Private::Ours(nothing(Code::NO_NAME, &zone.name, zone.ttl_s)),
    }
}

fn kind(kind: Kind) -> RecordKind {
    match kind {
        Kind::A => RecordKind::A,
        Kind::AAAA => RecordKind::Aaaa,
        Kind::SRV => RecordKind::Srv,
        Kind::CNAME => RecordKind::Cname,
        Kind::PTR => RecordKind::Ptr,
        _ => RecordKind::Other,
    }
}

/// `None` of a name that cannot be written, which none is that control has accepted.
fn record(question: &Question, ttl_s: u32, data: &PrivateData) -> Option<Record> {
    let name = |text: &str| Name::from_text(text).map(|name| name.as_wire().to_vec());
    let (kind, data) = match data {
        PrivateData::Address(IpAddr::V4(address)) => (Kind::A, address.octets().to_vec()),
        PrivateData::Address(IpAddr::V6(address)) => (Kind::AAAA, address.octets().to_vec()),
        PrivateData::Service { priority, weight, port, target } => {
            let numbers = [priority, weight, port].map(|number| number.to_be_bytes());
            (Kind::SRV, [numbers.concat(), name(target)?].concat())
        }
        PrivateData::Alias(target) => (Kind::CNAME, name(target)?),
        PrivateData::Pointer(target) => (Kind::PTR, name(target)?),
    };
    Some(Record { name: question.name.clone(), kind, ttl_s, data })
}

/// There is nothing in a zone, and for how long that holds (RFC 2308).
fn nothing(code: Code, zone: &str, ttl_s: u32) -> Answer {
    let soa = |zone: Name| {
        let numbers = SOA_NUMBERS.into_iter().chain([ttl_s]).flat_map(u32::to_be_bytes);
        // The server and the mailbox are not to be found: the zone itself stands for them.
        let data = [zone.as_wire(), zone.as_wire()].concat().into_iter().chain(numbers).collect();
        Record { name: zone, kind: Kind::SOA, ttl_s, data }
    };
    let authority = Name::from_text(zone).map(soa).into_iter().collect();
    Answer { is_authoritative: true, authority, ..Answer::bare(code) }
}

fn loopback(question: &Question) -> Answer {
    let address: Option<IpAddr> = match question.kind {
        Kind::A => Some(Ipv4Addr::LOCALHOST.into()),
        Kind::AAAA => Some(std::net::Ipv6Addr::LOCALHOST.into()),
        _ => None,
    };
    let address = address.and_then(|address| record(question, 0, &PrivateData::Address(address)));
    Answer { is_authoritative: true, records: address.into_iter().collect(), ..Answer::bare(Code::OK) }
}

use neargate_fuzz::Fuzz;
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, TYPE};

use super::*;

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn question(text: &str) -> Question {
    Question { name: name(text), kind: Kind::A }
}

fn a(owner: &str, last: u8) -> Record {
    Record { name: name(owner), kind: Kind::A, ttl_s: 60, data: vec![192, 0, 2, last] }
}

fn answer(records: Vec<Record>) -> Answer {
    Answer { code: Code::OK, is_authoritative: false, records, authority: Vec::new() }
}

fn query(message: &[u8]) -> (Query, Question) {
    match Request::read(message) {
        Request::Ask(query, question) => (query, question),
        other => panic!("{other:?}"),
    }
}

/// A message as somebody else writes it.
fn packet(text: &str, kind: TYPE, records: usize) -> Vec<u8> {
    let mut packet = if records == 0 { Packet::new_query(7) } else { Packet::new_reply(7) };
    let name = simple_dns::Name::new_unchecked(text);
    packet.questions.push(simple_dns::Question::new(
        name.clone(),
        QTYPE::TYPE(kind),
        CLASS::IN.into(),
        false,
    ));
    for number in 0..records {
        let address = simple_dns::rdata::RData::A(simple_dns::rdata::A { address: number as u32 });
        packet.answers.push(simple_dns::ResourceRecord::new(name.clone(), CLASS::IN, 30, address));
    }
    packet.build_bytes_vec_compressed().unwrap()
}

#[test]
fn questions_are_asked_and_others_refused() {
    let check = |message: &[u8], expect: &str| {
        let told = match Request::read(message) {
            Request::Nothing => "nothing".to_owned(),
            Request::Refuse(_, code) => format!("refuse {}", code.0),
            Request::Ask(_, question) => format!("ask {:?} {}", question.name, question.kind.0),
        };
        assert_eq!(told, expect, "{message:?}");
    };
    let plain = question("www.example.com").ask(7, false);
    let with = |at: usize, byte: u8| {
        let mut message = plain.clone();
        message[at] = byte;
        message
    };
    check(&plain, "ask www.example.com. 1");
    check(&question("www.example.com").ask(7, true), "ask www.example.com. 1");
    check(&packet("www.example.com", TYPE::MX, 0), "ask www.example.com. 15");
    // Of a type that nobody has named yet (RFC 3597).
    check(&with(plain.len() - 4, 0xf0), "ask www.example.com. 61441");
    check(b"", "nothing");
    check(&plain[..11], "nothing");
    check(&with(2, 0x80), "nothing");
    check(&with(2, 0x28), "refuse 4");
    check(&plain[..plain.len() - 1], "refuse 1");
    check(&with(5, 0), "refuse 1");
    check(&with(5, 2), "refuse 1");
    check(&with(7, 1), "refuse 1");
    check(&with(9, 1), "refuse 1");
    check(&with(11, 1), "refuse 1");
    check(&with(10, 0xff), "refuse 1");
    check(&with(12, 0xc0), "refuse 1");
    for kind in [250, 251, 252, 255] {
        check(&with(plain.len() - 3, kind), "refuse 4");
    }
    check(&with(plain.len() - 1, 3), "refuse 5");
}

#[test]
fn edns_is_said_once_and_of_version_0() {
    let plain = question("a").ask(7, false);
    let opt = |payload: u16, version: u8| {
        [&[0, 0, 41][..], &payload.to_be_bytes(), &[0, version, 0, 0, 0, 0]].concat()
    };
    let with = |opts: &[Vec<u8>]| {
        let mut message = [&plain[..], &opts.concat()].concat();
        message[11] = opts.len() as u8;
        message
    };
    let limit = |payload: u16| query(&with(&[opt(payload, 0)])).0.udp_bytes_max();
    assert_eq!(query(&plain).0.udp_bytes_max(), 512);
    assert_eq!([limit(0), limit(512), limit(1000), limit(4096)], [512, 512, 1000, 1232]);
    assert!(matches!(Request::read(&with(&[opt(512, 0), opt(512, 0)])), Request::Refuse(_, Code::MALFORMED)));
    let Request::Refuse(query, code) = Request::read(&with(&[opt(512, 1)])) else { panic!("version 1") };
    let message = query.answer(&Answer::bare(code).into(), 512);
    // The code is 16: its low bits are in the header, the others in the first byte of OPT's lifetime, where simple-dns
    // does not look for them.
    assert_eq!((message[3] & 0b1111, message[message.len() - 6]), (0, 1));
}

#[test]
fn answers_are_read_by_others() {
    let (query, asked) = query(&question("www.Example.com").ask(7, true));
    let alias = Record {
        name: asked.name.clone(),
        kind: Kind::CNAME,
        ttl_s: 30,
        data: name("web.example.com").as_wire().to_vec(),
    };
    let given = answer(vec![alias, a("web.example.com", 1), a("web.example.com", 2)]);
    let message = query.answer(&given.clone().into(), 512);
    let read = Packet::parse(&message).unwrap();
    assert_eq!((read.id(), read.rcode()), (7, RCODE::NoError));
    assert!(read.has_flags(PacketFlag::RESPONSE | PacketFlag::RECURSION_AVAILABLE));
    assert_eq!(read.questions[0].qname.to_string(), "www.Example.com");
    assert_eq!(read.opt().unwrap().udp_packet_size, 1232);
    let owners: Vec<String> = read.answers.iter().map(|record| record.name.to_string()).collect();
    assert_eq!(owners, ["www.Example.com", "web.example.com", "web.example.com"]);
    assert_eq!(read.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [30, 60, 60]);
    // And by ourselves.
    let reply = Reply::read(&message, 7, &asked).unwrap().unwrap();
    assert_eq!((reply.answer, reply.is_cut, reply.is_exact), (given, false, true));
}

#[test]
fn what_is_too_long_is_cut() {
    let (query, asked) = query(&question("a").ask(7, false));
    let long = answer((0..40).map(|last| a("a", last)).collect());
    let message = query.answer(&long.clone().into(), query.udp_bytes_max());
    assert!(message.len() <= 512);
    let reply = Reply::read(&message, 7, &asked).unwrap().unwrap();
    assert!(reply.is_cut && reply.answer.records.is_empty());
    assert_eq!(
        Reply::read(&query.answer(&long.clone().into(), 65_535), 7, &asked).unwrap().unwrap().answer,
        long
    );
}

#[test]
fn only_the_answer_to_the_question_counts() {
    let message = packet("www.example.com", TYPE::A, 2);
    let read = |id: u16, text: &str| Reply::read(&message, id, &question(text));
    assert_eq!(read(7, "www.example.com").unwrap().unwrap().answer.records.len(), 2);
    assert!(read(8, "www.example.com").unwrap().is_none());
    assert!(read(7, "ww.example.com").unwrap().is_none());
    assert!(!read(7, "WWW.example.com").unwrap().unwrap().is_exact);
    let mut other = message.clone();
    other[2] &= 0x7f;
    assert!(Reply::read(&other, 7, &question("www.example.com")).unwrap().is_none(), "a question");
    // More records than there are, and more than there may be.
    for count in [[0, 3], [0xff, 0xff]] {
        let mut other = message.clone();
        other[6..8].copy_from_slice(&count);
        assert_eq!(Reply::read(&other, 7, &question("www.example.com")).unwrap_err(), Malformed);
    }
}

#[test]
fn names_in_records_lose_their_pointers() {
    // An MX record whose name is a pointer to the question's.
    let mut message = packet("www.example.com", TYPE::MX, 1);
    let end = message.len();
    message.truncate(end - 14);
    message.extend_from_slice(b"\0\x0f\0\x01\0\0\0\x1e\0\x09\0\x0a\x04mail\xc0\x10");
    let asked = Question { kind: Kind(15), ..question("www.example.com") };
    let reply = Reply::read(&message, 7, &asked).unwrap().unwrap();
    let data = [&[0, 10][..], name("mail.example.com").as_wire()].concat();
    assert_eq!(reply.answer.records[0].data, data);
}

/// Row 84 of `security-tests.md`: damaged messages, whoever they come from.
#[test]
fn row_84_damaged_messages_harm_nobody() {
    let asked = question("www.example.com");
    let (_, asked_by_task) = query(&asked.ask(7, true));
    let corpus = [
        asked.ask(7, true),
        packet("www.example.com", TYPE::A, 3),
        packet("www.example.com", TYPE::SOA, 1),
        [packet("www.example.com", TYPE::MX, 1), vec![0xc0, 0x0c]].concat(),
    ];
    Fuzz { cases: 50_000, memory_bytes_max: 64 << 20 }.run(&corpus, |message| {
        let query = match Request::read(message) {
            Request::Nothing => None,
            Request::Refuse(query, _) | Request::Ask(query, _) => Some(query),
        };
        let Ok(reply) = Reply::read(message, 7, &asked_by_task) else { return };
        if let (Some(query), Some(reply)) = (query, &reply) {
            assert!(query.answer(&reply.answer.clone().into(), 512).len() <= 512 + 255);
        }
        let Some(reply) = reply.filter(|reply| !reply.is_cut) else { return };
        // What was understood is written so that it is understood again.
        let (query, _) = self::query(&asked.ask(7, false));
        let again =
            Reply::read(&query.answer(&reply.answer.clone().into(), 65_535), 7, &asked).unwrap().unwrap();
        assert!(again.answer == reply.answer || again.is_cut);
    });
}

#[test]
fn a_header_alone_may_be_a_refusal() {
    let asked = question("a");
    let check = |flags: u16, more: &[u8], expect: Option<Code>| {
        let message = [&7_u16.to_be_bytes()[..], &flags.to_be_bytes(), &[0; 8], more].concat();
        let reply = Reply::read(&message, 7, &asked).unwrap();
        assert_eq!(reply.map(|reply| (reply.answer.code, reply.is_exact)), expect.map(|code| (code, false)));
    };
    check(QR | 1, b"", Some(Code::MALFORMED));
    check(QR | 4, b"", Some(Code::NOT_IMPLEMENTED));
    check(QR, b"", None);
    check(QR | 3, b"", None);
    check(1, b"", None);
    check(QR | 1, b"x", None);
}

#[test]
fn records_age() {
    let record = Record { name: name("a"), kind: Kind::A, ttl_s: 30, data: vec![192, 0, 2, 1] };
    let Request::Ask(query, asked) = Request::read(&question("a").ask(7, false)) else {
        panic!("it is a question")
    };
    let mut told = Told::from(answer(vec![record.clone()]));
    for (age_s, expect) in [(0, 30), (12, 18), (40, 0)] {
        told.age_s = age_s;
        let read = Reply::read(&query.answer(&told, 512), 7, &asked).unwrap().unwrap();
        assert_eq!(read.answer.records, [Record { ttl_s: expect, ..record.clone() }]);
    }
}

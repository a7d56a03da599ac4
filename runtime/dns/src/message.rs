//! Messages (RFC 1035 §4) as far as a resolver that asks others needs them: questions of one name, and answers.
//!
//! Records of every type pass, known or not (RFC 3597). What a record says is kept without pointers into the message
//! that it came in, so that it can be part of another one.

use std::collections::HashMap;
use std::sync::Arc;

use crate::name::Name;

/// Bytes of the header.
const HEADER_BYTES: usize = 12;
/// Bytes of an answer over UDP to somebody who says nothing of the size (RFC 1035 §4.2.1).
const PLAIN_BYTES_MAX: u16 = 512;
/// Bytes of an answer over UDP: what passes every link in one piece (DNS flag day 2020).
pub(crate) const UDP_BYTES_MAX: u16 = 1232;
/// Records of one answer that are looked at; no honest name has as many.
const RECORDS_MAX: u16 = 512;
/// Records beside a question. There is one, of type OPT, or none.
const ADDITIONAL_MAX: u16 = 4;
/// Names that others are written as pointers to.
const POINTER_TARGETS_MAX: usize = 0x3fff;
const CLASS_IN: u16 = 1;

const QR: u16 = 1 << 15;
const AA: u16 = 1 << 10;
const TC: u16 = 1 << 9;
const RD: u16 = 1 << 8;
const RA: u16 = 1 << 7;
const OPCODE: u16 = 0b1111 << 11;

/// A message that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is malformed")]
pub(crate) struct Malformed;

/// A type of records (IANA, "DNS Parameters").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind(pub(crate) u16);

impl Kind {
    pub(crate) const A: Self = Self(1);
    pub(crate) const CNAME: Self = Self(5);
    pub(crate) const SOA: Self = Self(6);
    pub(crate) const PTR: Self = Self(12);
    pub(crate) const AAAA: Self = Self(28);
    pub(crate) const SRV: Self = Self(33);
    pub(crate) const OPT: Self = Self(41);
    pub(crate) const SVCB: Self = Self(64);
    pub(crate) const HTTPS: Self = Self(65);
    const TSIG: Self = Self(250);
    const ALL: Self = Self(255);

    /// Whether it is no type of records but a way of asking: all of them, or a transfer of the zone.
    pub(crate) fn is_meta(self) -> bool {
        self == Self::OPT || (Self::TSIG.0 - 1..=Self::ALL.0).contains(&self.0)
    }

    /// What of its data are names: so many bytes, then so many names, then the rest.
    fn names(self) -> Option<(usize, usize)> {
        match self.0 {
            // NS, MD, MF, CNAME, MB, MG, MR, PTR, DNAME
            2..=5 | 7..=9 | 12 | 39 => Some((0, 1)),
            // SOA, MINFO, RP
            6 | 14 | 17 => Some((0, 2)),
            // MX, AFSDB, RT, KX
            15 | 18 | 21 | 36 => Some((2, 1)),
            // PX
            26 => Some((2, 2)),
            33 => Some((6, 1)),
            _ => None,
        }
    }
}

/// What became of a question (RFC 1035 §4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u16);

impl Code {
    pub(crate) const OK: Self = Self(0);
    pub(crate) const MALFORMED: Self = Self(1);
    pub(crate) const FAILED: Self = Self(2);
    pub(crate) const NO_NAME: Self = Self(3);
    pub(crate) const NOT_IMPLEMENTED: Self = Self(4);
    pub(crate) const REFUSED: Self = Self(5);
    /// A version of EDNS that is not known (RFC 6891 §6.1.3).
    pub(crate) const BAD_VERSION: Self = Self(16);
}

/// A name and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    pub(crate) name: Name,
    pub(crate) kind: Kind,
}

/// A message from a task.
#[derive(Debug)]
pub(crate) struct Query {
    id: u16,
    is_recursive: bool,
    question: Option<Question>,
    /// Bytes that its sender can take over UDP; `None` where it does not speak EDNS.
    payload: Option<u16>,
}

/// What a task's message wants.
#[derive(Debug)]
pub(crate) enum Request {
    /// Nothing that is ours to answer.
    Nothing,
    /// This is answered.
    Refuse(Query, Code),
    /// This is asked.
    Ask(Query, Question),
}

/// A record of the class IN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) name: Name,
    pub(crate) kind: Kind,
    pub(crate) ttl_s: u32,
    pub(crate) data: Vec<u8>,
}

/// What is answered to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: Code,
    pub(crate) is_authoritative: bool,
    pub(crate) records: Vec<Record>,
    /// The start of the zone in which there is nothing (RFC 2308).
    pub(crate) authority: Vec<Record>,
}

/// What a task is told: an answer, which may be in the cache as well, behind the aliases that led to its name.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) aliases: Vec<Record>,
    pub(crate) answer: Arc<Answer>,
    /// For how long the answer is known, which its records are good for less.
    pub(crate) age_s: u32,
}

impl From<Answer> for Told {
    fn from(answer: Answer) -> Self {
        Self { aliases: Vec::new(), answer: Arc::new(answer), age_s: 0 }
    }
}

/// What another resolver has answered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    /// Whether there is more than the message could take.
    pub(crate) is_cut: bool,
    /// Whether the question came back letter by letter as it was asked.
    pub(crate) is_exact: bool,
}

impl Request {
    /// Reads a task's message.
    pub(crate) fn read(message: &[u8]) -> Self {
        let Ok(header) = Header::read(message) else { return Self::Nothing };
        if header.flags & QR != 0 {
            return Self::Nothing;
        }
        let is_recursive = header.flags & RD != 0;
        let bare = Query { id: header.id, is_recursive, question: None, payload: None };
        if header.flags & OPCODE != 0 {
            return Self::Refuse(bare, Code::NOT_IMPLEMENTED);
        }
        if [header.questions, header.answers, header.authority] != [1, 0, 0]
            || header.additional > ADDITIONAL_MAX
        {
            return Self::Refuse(bare, Code::MALFORMED);
        }
        match read_question(message, header.additional) {
            Ok((question, class, edns)) => {
                let payload = edns.map(|edns| edns.payload.clamp(PLAIN_BYTES_MAX, UDP_BYTES_MAX));
                let query = Query { question: Some(question.clone()), payload, ..bare };
                if edns.is_some_and(|edns| edns.version > 0) {
                    Self::Refuse(query, Code::BAD_VERSION)
                } else if class != CLASS_IN {
                    Self::Refuse(query, Code::REFUSED)
                } else if question.kind.is_meta() {
                    Self::Refuse(query, Code::NOT_IMPLEMENTED)
                } else {
                    Self::Ask(query, question)
                }
            }
            Err(Malformed) => Self::Refuse(bare, Code::MALFORMED),
        }
    }
}

impl Query {
    /// The message of a question that came without one.
    pub(crate) fn none() -> Self {
        Self { id: 0, is_recursive: true, question: None, payload: None }
    }

    /// Bytes that its answer may have over UDP.
    pub(crate) fn udp_bytes_max(&self) -> usize {
        self.payload.unwrap_or(PLAIN_BYTES_MAX).into()
    }

    /// The message that answers it: with no record, and the mark that there are more, where it would be longer than
    /// `bytes_max`.
    pub(crate) fn answer(&self, told: &Told, bytes_max: usize) -> Vec<u8> {
        let message = self.write(told, 0);
        if message.len() <= bytes_max {
            return message;
        }
        let Answer { code, is_authoritative, .. } = *told.answer;
        let nothing = Answer { is_authoritative, ..Answer::bare(code) };
        self.write(&Told::from(nothing), TC)
    }

    fn write(&self, told: &Told, more_flags: u16) -> Vec<u8> {
        let Told { aliases, answer, age_s } = told;
        let recursive = if self.is_recursive { RD } else { 0 };
        let authoritative = if answer.is_authoritative { AA } else { 0 };
        let flags = QR | RA | recursive | authoritative | more_flags | answer.code.0 & 0b1111;
        let mut writer = Writer::new(self.id, flags);
        if let Some(question) = &self.question {
            writer.question(question);
        }
        aliases.iter().for_each(|record| writer.record(record, 0));
        answer.records.iter().chain(&answer.authority).for_each(|record| writer.record(record, *age_s));
        if self.payload.is_some() {
            writer.edns(answer.code);
        }
        let counts = [
            usize::from(self.question.is_some()),
            aliases.len() + answer.records.len(),
            answer.authority.len(),
            usize::from(self.payload.is_some()),
        ];
        writer.finish(counts)
    }
}

impl Question {
    /// The message that asks another resolver.
    pub(crate) fn ask(&self, id: u16, has_edns: bool) -> Vec<u8> {
        let mut writer = Writer::new(id, RD);
        writer.question(self);
        if has_edns {
            writer.edns(Code::OK);
        }
        writer.finish([1, 0, 0, usize::from(has_edns)])
    }
}

impl Reply {
    /// Reads the answer to a question that was asked with this id; `None` of what answers another one.
    pub(crate) fn read(message: &[u8], id: u16, asked: &Question) -> Result<Option<Self>, Malformed> {
        let header = Header::read(message)?;
        if header.id != id || header.flags & QR == 0 || header.flags & OPCODE != 0 {
            return Ok(None);
        }
        if let Some(code) = header.refusal(message.len()) {
            return Ok(Some(Self { answer: Answer::bare(code), is_cut: false, is_exact: false }));
        }
        if header.questions != 1 {
            return Ok(None);
        }
        if header.answers > RECORDS_MAX || header.authority > RECORDS_MAX {
            return Err(Malformed);
        }
        let mut at = HEADER_BYTES;
        let name = Name::read(message, &mut at)?;
        let is_exact = name.as_wire() == asked.name.as_wire();
        let question = Question { name, kind: Kind(read_u16(message, &mut at)?) };
        if question != *asked || read_u16(message, &mut at)? != CLASS_IN {
            return Ok(None);
        }
        let code = Code(header.flags & 0b1111);
        let is_cut = header.flags & TC != 0;
        let mut answer = Answer { code, is_authoritative: false, records: Vec::new(), authority: Vec::new() };
        // What was cut off may end anywhere, and is asked for again.
        if !is_cut {
            answer.records = read_records(message, &mut at, header.answers)?;
            answer.authority = read_records(message, &mut at, header.authority)?;
        }
        Ok(Some(Self { answer, is_cut, is_exact }))
    }
}

impl Record {
    /// The name that it leads to, of a CNAME.
    pub(crate) fn target(&self) -> Option<Name> {
        (self.kind == Kind::CNAME).then(|| Name::read(&self.data, &mut 0).ok()).flatten()
    }
}

struct Header {
    id: u16,
    flags: u16,
    questions: u16,
    answers: u16,
    authority: u16,
    additional: u16,
}

impl Header {
    /// What a server says that takes a message with EDNS for a damaged one and sends back no question (RFC 6891 §7).
    /// Whoever forges it gains that the question is asked again.
    fn refusal(&self, length: usize) -> Option<Code> {
        let code = Code(self.flags & 0b1111);
        let is_bare = length == HEADER_BYTES && self.questions == 0;
        (is_bare && [Code::MALFORMED, Code::NOT_IMPLEMENTED].contains(&code)).then_some(code)
    }

    fn read(message: &[u8]) -> Result<Self, Malformed> {
        let mut at = 0;
        let mut word = || read_u16(message, &mut at);
        Ok(Self {
            id: word()?,
            flags: word()?,
            questions: word()?,
            answers: word()?,
            authority: word()?,
            additional: word()?,
        })
    }
}

#[derive(Clone, Copy)]
struct Edns {
    payload: u16,
    version: u8,
}

/// The question with its class, and what is said of EDNS, which is said once (RFC 6891 §6.1.1).
fn read_question(message: &[u8], additional: u16) -> Result<(Question, u16, Option<Edns>), Malformed> {
    let mut at = HEADER_BYTES;
    let name = Name::read(message, &mut at)?;
    let question = Question { name, kind: Kind(read_u16(message, &mut at)?) };
    let class = read_u16(message, &mut at)?;
    let mut edns = None;
    for _ in 0..additional {
        let owner = Name::read(message, &mut at)?;
        let kind = Kind(read_u16(message, &mut at)?);
        let payload = read_u16(message, &mut at)?;
        let [_, version, _, _] = read_u32(message, &mut at)?.to_be_bytes();
        at += usize::from(read_u16(message, &mut at)?);
        let is_root = owner.as_wire() == [0];
        if kind == Kind::OPT && (!is_root || edns.replace(Edns { payload, version }).is_some()) {
            return Err(Malformed);
        }
    }
    if at <= message.len() { Ok((question, class, edns)) } else { Err(Malformed) }
}

/// Records of the class IN; those of others are left out.
fn read_records(message: &[u8], at: &mut usize, count: u16) -> Result<Vec<Record>, Malformed> {
    let mut records = Vec::new();
    for _ in 0..count {
        let name = Name::read(message, at)?;
        let kind = Kind(read_u16(message, at)?);
        let class = read_u16(message, at)?;
        let ttl_s = read_u32(message, at)?;
        let end = usize::from(read_u16(message, at)?) + *at;
        let data = read_data(message, *at, end, kind)?;
        *at = end;
        if class == CLASS_IN && !kind.is_meta() {
            // The sign bit is taken for a mistake (RFC 2181 §8).
            let ttl_s = if ttl_s > i32::MAX as u32 { 0 } else { ttl_s };
            records.push(Record { name, kind, ttl_s, data });
        }
    }
    Ok(records)
}

fn read_data(message: &[u8], from: usize, end: usize, kind: Kind) -> Result<Vec<u8>, Malformed> {
    let raw = message.get(from..end).ok_or(Malformed)?;
    let Some((before, names)) = kind.names() else { return Ok(raw.to_vec()) };
    let mut data = raw.get(..before).ok_or(Malformed)?.to_vec();
    let mut at = from + before;
    for _ in 0..names {
        data.extend_from_slice(Name::read(message, &mut at)?.as_wire());
    }
    data.extend_from_slice(message.get(at..end).ok_or(Malformed)?);
    Ok(data)
}

fn read_u16(message: &[u8], at: &mut usize) -> Result<u16, Malformed> {
    let bytes = message.get(*at..).and_then(<[u8]>::first_chunk).ok_or(Malformed)?;
    *at += 2;
    Ok(u16::from_be_bytes(*bytes))
}

fn read_u32(message: &[u8], at: &mut usize) -> Result<u32, Malformed> {
    Ok(u32::from(read_u16(message, at)?) << 16 | u32::from(read_u16(message, at)?))
}

/// Writes a message. Owners of records are pointers to where the same name is already.
struct Writer {
    message: Vec<u8>,
    places: HashMap<Name, u16>,
}

impl Writer {
    fn new(id: u16, flags: u16) -> Self {
        let mut message = Vec::with_capacity(PLAIN_BYTES_MAX.into());
        message.extend_from_slice(&id.to_be_bytes());
        message.extend_from_slice(&flags.to_be_bytes());
        message.resize(HEADER_BYTES, 0);
        Self { message, places: HashMap::new() }
    }

    fn word(&mut self, word: u16) {
        self.message.extend_from_slice(&word.to_be_bytes());
    }

    fn name(&mut self, name: &Name) {
        if let Some(place) = self.places.get(name) {
            return self.word(0xc000 | place);
        }
        self.note_place(name);
        self.message.extend_from_slice(name.as_wire());
    }

    /// Notes that a name is written next.
    fn note_place(&mut self, name: &Name) {
        let place = self.message.len();
        if place <= POINTER_TARGETS_MAX {
            self.places.entry(name.clone()).or_insert(place as u16);
        }
    }

    fn question(&mut self, question: &Question) {
        self.name(&question.name);
        self.word(question.kind.0);
        self.word(CLASS_IN);
    }

    fn record(&mut self, record: &Record, age_s: u32) {
        self.name(&record.name);
        self.word(record.kind.0);
        self.word(CLASS_IN);
        self.message.extend_from_slice(&record.ttl_s.saturating_sub(age_s).to_be_bytes());
        // Nothing that is longer was read, nor is made.
        self.word(u16::try_from(record.data.len()).unwrap_or(u16::MAX));
        if let Some(target) = record.target() {
            self.note_place(&target);
        }
        self.message.extend_from_slice(&record.data);
    }

    fn edns(&mut self, code: Code) {
        self.message.push(0);
        self.word(Kind::OPT.0);
        self.word(UDP_BYTES_MAX);
        // What of the code the header has no room for; version 0.
        self.word(code.0 >> 4 << 8);
        self.word(0);
        self.word(0);
    }

    fn finish(mut self, counts: [usize; 4]) -> Vec<u8> {
        for (index, count) in counts.into_iter().enumerate() {
            let count = u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes();
            self.message[4 + 2 * index..6 + 2 * index].copy_from_slice(&count);
        }
        self.message
    }
}

#[cfg(test)]
mod tests;

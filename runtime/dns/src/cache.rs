//! What others have answered, for as long as they say (RFC 1035 §3.2.1, RFC 2308).

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::message::{Answer, Code, Kind, Question, Record};

/// Answers of each sort that are kept. Those of names that do not exist have a place of their own, so that somebody who
/// asks for thousands of them takes none of the others'.
const ANSWERS_MAX: usize = 4096;
/// Bytes of answers of each sort.
const BYTES_MAX: usize = 4 << 20;
/// The longest time for which an answer is kept, whatever it says: a name that has moved is found within the hour.
const FOUND_MAX_S: u32 = 3600;
/// The same of a name that does not exist, or has no such record (RFC 2308 §5 asks for one to three hours at most; who
/// makes a name after it was looked for wants it sooner).
const MISSING_MAX_S: u32 = 300;
/// What an answer takes besides its records.
const OVERHEAD_BYTES: usize = 128;

#[derive(Default)]
pub(crate) struct Cache {
    found: Shelf,
    missing: Shelf,
}

#[derive(Default)]
struct Shelf {
    answers: HashMap<Question, Kept>,
    /// The questions in the order in which they came, the oldest first, with the numbers of their answers.
    order: VecDeque<(Question, u64)>,
    bytes: usize,
    last: u64,
}

struct Kept {
    answer: Answer,
    since: Instant,
    until: Instant,
    bytes: usize,
    number: u64,
}

impl Cache {
    /// The answer to a question, with what is left of its time.
    pub(crate) fn get(&self, question: &Question, now: Instant) -> Option<Answer> {
        self.found.get(question, now).or_else(|| self.missing.get(question, now))
    }

    /// Keeps an answer for as long as it may be.
    pub(crate) fn put(&mut self, question: &Question, answer: &Answer, now: Instant) {
        let Some(ttl_s) = ttl_s(answer).filter(|ttl_s| *ttl_s > 0) else { return };
        let shelf = if is_missing(answer) { &mut self.missing } else { &mut self.found };
        shelf.put(question, answer, now, now + Duration::from_secs(ttl_s.into()));
    }
}

impl Shelf {
    fn get(&self, question: &Question, now: Instant) -> Option<Answer> {
        let kept = self.answers.get(question).filter(|kept| now < kept.until)?;
        let age_s = u32::try_from(now.saturating_duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        let mut answer = kept.answer.clone();
        for record in answer.records.iter_mut().chain(&mut answer.authority) {
            record.ttl_s = record.ttl_s.saturating_sub(age_s);
        }
        Some(answer)
    }

    fn put(&mut self, question: &Question, answer: &Answer, since: Instant, until: Instant) {
        let bytes = size(question, answer);
        if bytes > BYTES_MAX / 16 {
            return;
        }
        self.last += 1;
        let kept = Kept { answer: answer.clone(), since, until, bytes, number: self.last };
        self.bytes += bytes;
        self.order.push_back((question.clone(), self.last));
        if let Some(before) = self.answers.insert(question.clone(), kept) {
            self.bytes -= before.bytes;
        }
        while self.answers.len() > ANSWERS_MAX || self.bytes > BYTES_MAX || self.order.len() > 2 * ANSWERS_MAX
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some((question, number)) = self.order.pop_front() else { return };
        // It may have been answered again since.
        if self.answers.get(&question).is_some_and(|kept| kept.number == number)
            && let Some(kept) = self.answers.remove(&question)
        {
            self.bytes -= kept.bytes;
        }
    }
}

fn is_missing(answer: &Answer) -> bool {
    answer.code == Code::NO_NAME || answer.records.is_empty()
}

/// For how long an answer may be kept; `None` of one that says nothing of the name, or not for how long.
fn ttl_s(answer: &Answer) -> Option<u32> {
    if answer.code != Code::OK && answer.code != Code::NO_NAME {
        return None;
    }
    let shortest = answer.records.iter().map(|record| record.ttl_s).min();
    if !is_missing(answer) {
        return shortest.map(|ttl_s| ttl_s.min(FOUND_MAX_S));
    }
    let soa = answer.authority.iter().find(|record| record.kind == Kind::SOA)?;
    let minimum = soa.data.last_chunk().map(|bytes| u32::from_be_bytes(*bytes))?;
    Some(minimum.min(soa.ttl_s).min(shortest.unwrap_or(u32::MAX)).min(MISSING_MAX_S))
}

fn size(question: &Question, answer: &Answer) -> usize {
    let of = |record: &Record| OVERHEAD_BYTES + record.name.as_wire().len() + record.data.len();
    let records = answer.records.iter().chain(&answer.authority).map(of).sum::<usize>();
    OVERHEAD_BYTES + 2 * question.name.as_wire().len() + records
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Name;

    fn question(text: &str) -> Question {
        Question { name: Name::from_text(text).unwrap(), kind: Kind::A }
    }

    fn answer(code: Code, ttls: &[u32]) -> Answer {
        let record = |ttl_s: &u32| Record {
            name: Name::from_text("a").unwrap(),
            kind: Kind::A,
            ttl_s: *ttl_s,
            data: vec![192, 0, 2, 1],
        };
        let records = ttls.iter().map(record).collect();
        Answer { code, is_authoritative: false, records, authority: Vec::new() }
    }

    fn missing(ttl_s: u32, minimum: u32) -> Answer {
        let data = [&[0; 18][..], &minimum.to_be_bytes()].concat();
        let soa = Record { name: Name::from_text("zone").unwrap(), kind: Kind::SOA, ttl_s, data };
        Answer { authority: vec![soa], ..answer(Code::NO_NAME, &[]) }
    }

    #[test]
    fn answers_are_kept_as_long_as_they_say() {
        let start = Instant::now();
        let check = |answer: &Answer, expect_s: u64| {
            let mut cache = Cache::default();
            cache.put(&question("a"), answer, start);
            let at = |s: u64| cache.get(&question("A"), start + Duration::from_secs(s));
            assert_eq!(at(0).is_some(), expect_s > 0, "{answer:?}");
            assert_eq!(at(expect_s.saturating_sub(1)).is_some(), expect_s > 0, "{answer:?}");
            assert!(at(expect_s).is_none(), "{answer:?}");
        };
        check(&answer(Code::OK, &[30, 10]), 10);
        check(&answer(Code::OK, &[0]), 0);
        check(&answer(Code::OK, &[1_000_000]), 3600);
        check(&answer(Code::FAILED, &[30]), 0);
        check(&missing(60, 20), 20);
        check(&missing(10, 20), 10);
        check(&missing(9000, 9000), 300);
        check(&answer(Code::NO_NAME, &[]), 0);
        check(&answer(Code::OK, &[]), 0);
    }

    #[test]
    fn what_is_left_of_the_time_is_told() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        cache.put(&question("a"), &answer(Code::OK, &[30, 90]), start);
        let kept = cache.get(&question("a"), start + Duration::from_secs(12)).unwrap();
        assert_eq!(kept.records.iter().map(|record| record.ttl_s).collect::<Vec<_>>(), [18, 78]);
        assert_eq!(cache.get(&Question { kind: Kind::AAAA, ..question("a") }, start), None);
    }

    #[test]
    fn names_that_do_not_exist_take_no_place_of_others() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        cache.put(&question("kept"), &answer(Code::OK, &[60]), start);
        for number in 0..ANSWERS_MAX + 100 {
            cache.put(&question(&format!("n{number}")), &missing(60, 60), start);
        }
        assert!(cache.get(&question("kept"), start).is_some());
        assert_eq!(cache.missing.answers.len(), ANSWERS_MAX);
        assert!(cache.get(&question("n0"), start).is_none(), "the oldest goes");
        assert!(cache.get(&question("n4000"), start).is_some());
    }

    #[test]
    fn its_size_is_bounded() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let large = answer(Code::OK, &[60; 400]);
        for number in 0..ANSWERS_MAX {
            cache.put(&question(&format!("n{number}")), &large, start);
        }
        assert!(cache.found.bytes <= BYTES_MAX && cache.found.answers.len() > 10);
        // Again and again the same one.
        let mut cache = Cache::default();
        for _ in 0..10 * ANSWERS_MAX {
            cache.put(&question("a"), &answer(Code::OK, &[60]), start);
        }
        assert!(cache.found.order.len() <= 2 * ANSWERS_MAX && cache.found.answers.len() == 1);
        assert_eq!(cache.found.bytes, cache.found.answers.values().map(|kept| kept.bytes).sum::<usize>());
    }
}

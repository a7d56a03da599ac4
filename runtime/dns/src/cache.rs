//! What others have answered, for as long as they say (RFC 1035 §3.2.1, RFC 2308).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
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

/// How long it is remembered that nobody has answered, so that others are not asked again at once (RFC 9520 §3.2).
const FAILED_S: u32 = 5;

#[derive(Default)]
pub(crate) struct Cache {
    found: Shelf,
    missing: Shelf,
    failed: Shelf,
    /// Of which servers its answers are.
    generation: u64,
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
    answer: Arc<Answer>,
    since: Instant,
    until: Instant,
    bytes: usize,
    number: u64,
}

impl Cache {
    /// Forgets everything if it is of others than these.
    pub(crate) fn begin_anew_for(&mut self, generation: u64) {
        if self.generation != generation {
            *self = Self { generation, ..Self::default() };
        }
    }

    /// The answer to a question, and for how many seconds it is known.
    pub(crate) fn get(&self, question: &Question, now: Instant) -> Option<(Arc<Answer>, u32)> {
        [&self.found, &self.missing, &self.failed].into_iter().find_map(|shelf| shelf.get(question, now))
    }

    /// Keeps an answer for as long as it may be.
    pub(crate) fn put(&mut self, question: &Question, answer: &Arc<Answer>, now: Instant) {
        let Some(ttl_s) = ttl_s(answer).filter(|ttl_s| *ttl_s > 0) else { return };
        let shelf = match answer.code {
            Code::FAILED => &mut self.failed,
            _ if is_missing(answer) => &mut self.missing,
            _ => &mut self.found,
        };
        shelf.put(question, answer, now, now + Duration::from_secs(ttl_s.into()));
    }
}

impl Shelf {
    fn get(&self, question: &Question, now: Instant) -> Option<(Arc<Answer>, u32)> {
        let kept = self.answers.get(question).filter(|kept| now < kept.until)?;
        let age_s = u32::try_from(now.saturating_duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        Some((kept.answer.clone(), age_s))
    }

    fn put(&mut self, question: &Question, answer: &Arc<Answer>, since: Instant, until: Instant) {
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
    match answer.code {
        Code::OK | Code::NO_NAME => {}
        Code::FAILED => return Some(FAILED_S),
        _ => return None,
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

    fn answer(code: Code, ttls: &[u32]) -> Arc<Answer> {
        let record = |ttl_s: &u32| Record {
            name: Name::from_text("a").unwrap(),
            kind: Kind::A,
            ttl_s: *ttl_s,
            data: vec![192, 0, 2, 1],
        };
        let records = ttls.iter().map(record).collect();
        Arc::new(Answer { records, ..Answer::bare(code) })
    }

    fn missing(ttl_s: u32, minimum: u32) -> Arc<Answer> {
        let data = [&[0; 18][..], &minimum.to_be_bytes()].concat();
        let soa = Record { name: Name::from_text("zone").unwrap(), kind: Kind::SOA, ttl_s, data };
        Arc::new(Answer { authority: vec![soa], ..Answer::bare(Code::NO_NAME) })
    }

    #[test]
    fn answers_are_kept_as_long_as_they_say() {
        let start = Instant::now();
        let check = |answer: &Arc<Answer>, expect_s: u64| {
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
        check(&answer(Code::FAILED, &[]), 5);
        check(&answer(Code::REFUSED, &[30]), 0);
        check(&missing(60, 20), 20);
        check(&missing(10, 20), 10);
        check(&missing(9000, 9000), 300);
        check(&answer(Code::NO_NAME, &[]), 0);
        check(&answer(Code::OK, &[]), 0);
    }

    #[test]
    fn how_old_an_answer_is_is_told() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        cache.put(&question("a"), &answer(Code::OK, &[30, 90]), start);
        let (kept, age_s) = cache.get(&question("a"), start + Duration::from_secs(12)).unwrap();
        assert_eq!((&kept, age_s), (&answer(Code::OK, &[30, 90]), 12));
        assert_eq!(cache.get(&Question { kind: Kind::AAAA, ..question("a") }, start), None);
    }

    #[test]
    fn answers_of_other_servers_are_forgotten() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        cache.begin_anew_for(1);
        cache.put(&question("a"), &answer(Code::OK, &[30]), start);
        cache.begin_anew_for(1);
        assert!(cache.get(&question("a"), start).is_some());
        cache.begin_anew_for(2);
        assert!(cache.get(&question("a"), start).is_none());
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

//! The rules of the CloudWatch Logs API that do not depend on what is stored.

use neargate_model::Timestamp;

use crate::config::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, EVENT_OVERHEAD_BYTES, RETENTION_DAYS};
use crate::error::{MetaError, PutError};
use crate::event::{InputEvent, Rejected};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

fn invalid(parameter: &'static str, rule: &'static str) -> MetaError {
    MetaError::InvalidParameter { parameter, rule }
}

/// Checks the name of a group (`CreateLogGroup`).
pub(crate) fn check_group_name(name: &str) -> Result<(), MetaError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-/.#".contains(&b);
    if !(1..=512).contains(&name.len()) || !name.bytes().all(allowed) {
        return Err(invalid("logGroupName", "a name has 1 to 512 letters, digits and _ - / . #"));
    }
    if name.starts_with("aws/") {
        return Err(invalid("logGroupName", "a name does not start with aws/"));
    }
    Ok(())
}

/// Checks the name of a stream (`CreateLogStream`).
pub(crate) fn check_stream_name(name: &str) -> Result<(), MetaError> {
    if (1..=512).contains(&name.chars().count()) && !name.contains([':', '*']) {
        Ok(())
    } else {
        Err(invalid("logStreamName", "a name has 1 to 512 characters and neither : nor *"))
    }
}

/// Checks a retention period in days (`PutRetentionPolicy`).
pub(crate) fn check_retention(days: u32) -> Result<(), MetaError> {
    if RETENTION_DAYS.contains(&days) {
        Ok(())
    } else {
        Err(invalid("retentionInDays", "a retention period is one of 1, 3, 5, 7, 14, 30, 60, … 3653 days"))
    }
}

/// Checks a batch (`PutLogEvents`) and finds the events to refuse. `cutoff` is the oldest time that the
/// group's retention keeps.
pub(crate) fn check_batch(events: &[InputEvent], now: Timestamp, cutoff: i64) -> Result<Rejected, PutError> {
    let fail = |rule| Err(PutError::InvalidParameter { parameter: "logEvents", rule });
    if events.is_empty() || events.len() > BATCH_EVENTS_MAX {
        return fail("a batch has 1 to 10,000 events");
    }
    let bytes: usize = events.iter().map(|event| event.message.len() + EVENT_OVERHEAD_BYTES).sum();
    if bytes > BATCH_BYTES_MAX {
        return fail("a batch has at most 1,048,576 bytes, each event counting its message and 26 bytes");
    }
    if events.iter().any(|event| event.message.is_empty() || event.timestamp.as_millis() < 0) {
        return fail("an event has a message and a time not before 1970");
    }
    if !events.is_sorted_by_key(|event| event.timestamp) {
        return fail("the events of a batch are in chronological order");
    }
    let now = now.as_millis();
    // The events are sorted, so the refused ones are a prefix and a suffix.
    let older_than = |time: i64| events.partition_point(|event| event.timestamp.as_millis() < time);
    let some = |index: usize| (index > 0).then_some(index);
    let too_old = older_than(now.saturating_sub(14 * DAY_MS));
    let expired = older_than(cutoff);
    let too_new = older_than(now.saturating_add(2 * HOUR_MS + 1));
    let valid = &events[too_old.max(expired).min(too_new)..too_new];
    if let [first, .., last] = valid
        && last.timestamp.millis_since(first.timestamp) > DAY_MS.unsigned_abs()
    {
        return fail("the events of a batch span at most 24 hours");
    }
    Ok(Rejected {
        too_new_start: (too_new < events.len()).then_some(too_new),
        too_old_end: some(too_old),
        expired_end: some(expired).filter(|_| expired > too_old),
    })
}

impl Rejected {
    /// The events to store.
    pub(crate) fn valid<'a>(&self, events: &'a [InputEvent]) -> &'a [InputEvent] {
        let end = self.too_new_start.unwrap_or(events.len());
        let start = self.too_old_end.max(self.expired_end).unwrap_or(0).min(end);
        &events[start..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 100 * DAY_MS;

    #[test]
    fn names() {
        let group = |name: &str, valid: bool| assert_eq!(check_group_name(name).is_ok(), valid, "{name:?}");
        group("/ecs/web_1-a.b#c", true);
        group("", false);
        group("a b", false);
        group("a:b", false);
        group("é", false);
        group("aws/x", false);
        group("/aws/x", true);
        group(&"a".repeat(512), true);
        group(&"a".repeat(513), false);
        let stream = |name: &str, valid: bool| assert_eq!(check_stream_name(name).is_ok(), valid, "{name:?}");
        stream("ecs/web/0123", true);
        stream("é [$LATEST] x", true);
        stream("", false);
        stream("a:b", false);
        stream("a*", false);
        stream(&"é".repeat(512), true);
        stream(&"é".repeat(513), false);
    }

    fn batch(times: &[i64]) -> Vec<InputEvent> {
        times.iter().map(|&t| InputEvent { timestamp: Timestamp(t), message: "m".to_owned() }).collect()
    }

    fn check(times: &[i64], cutoff: i64, expect: Option<(Option<usize>, Option<usize>, Option<usize>)>) {
        let events = batch(times);
        let found = check_batch(&events, Timestamp(NOW), cutoff).ok();
        if let Some(rejected) = found {
            let valid = rejected.valid(&events).len();
            let refused =
                times.iter().filter(|&&t| t < NOW - 14 * DAY_MS || t < cutoff || t > NOW + 2 * HOUR_MS);
            assert_eq!(valid, times.len() - refused.count(), "{times:?}");
        }
        assert_eq!(found.map(|r| (r.too_old_end, r.expired_end, r.too_new_start)), expect, "{times:?}");
    }

    #[test]
    fn batches() {
        let all = Some((None, None, None));
        check(&[NOW], i64::MIN, all);
        check(&[NOW, NOW], i64::MIN, all);
        check(&[], i64::MIN, None);
        check(&[NOW, NOW - 1], i64::MIN, None);
        check(&[-1], i64::MIN, None);
        check(&[NOW - DAY_MS, NOW], i64::MIN, all);
        check(&[NOW - DAY_MS - 1, NOW], i64::MIN, None);
        check(&[NOW + 2 * HOUR_MS], i64::MIN, all);
        check(&[NOW, NOW + 2 * HOUR_MS + 1], i64::MIN, Some((None, None, Some(1))));
        check(&[NOW - 14 * DAY_MS], i64::MIN, all);
        check(&[NOW - 14 * DAY_MS - 1, NOW], i64::MIN, Some((Some(1), None, None)));
        check(&[0, 1, NOW - 2 * DAY_MS, NOW], NOW - DAY_MS, Some((Some(2), Some(3), None)));
        check(&[0, NOW], NOW - 30 * DAY_MS, Some((Some(1), None, None)));
        check(&[0, NOW + DAY_MS], i64::MIN, Some((Some(1), None, Some(1))));
    }

    #[test]
    fn batch_sizes() {
        let sized = |events: usize, length: usize| {
            let message = "m".repeat(length);
            let event = InputEvent { timestamp: Timestamp(NOW), message };
            check_batch(&vec![event; events], Timestamp(NOW), i64::MIN).is_ok()
        };
        assert!(sized(10_000, 1));
        assert!(!sized(10_001, 1));
        assert!(sized(1, 1_048_576 - 26));
        assert!(!sized(1, 1_048_576 - 25));
        assert!(sized(2, 524_288 - 26));
        assert!(!sized(2, 524_288 - 25));
        assert!(!sized(1, 0));
    }

    #[test]
    fn retention() {
        for days in 0..4000 {
            assert_eq!(check_retention(days).is_ok(), RETENTION_DAYS.contains(&days));
        }
    }
}

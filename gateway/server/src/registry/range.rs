//! Ranges of bytes: of what is asked for, and of what is sent.

/// What of a file is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    All,
    /// From here, so many bytes.
    Part(u64, u64),
    /// What it does not have.
    Beyond,
}

/// Reads `Range` (RFC 9110, 14.2). What is not understood, and several ranges at once, are all of it, as the RFC lets a
/// server choose.
pub(super) fn wanted(range: Option<&str>, size: u64) -> Wanted {
    let read = || {
        let (first, last) = range?.strip_prefix("bytes=")?.trim().split_once('-')?;
        match (first, last) {
            ("", last) => {
                let length = number(last)?.min(size);
                Some(if length == 0 { Wanted::Beyond } else { Wanted::Part(size - length, length) })
            }
            (first, last) => {
                let first = number(first)?;
                let last = if last.is_empty() { u64::MAX } else { number(last)? };
                if last < first {
                    return None;
                }
                let last = last.min(size.saturating_sub(1));
                Some(if first >= size { Wanted::Beyond } else { Wanted::Part(first, last - first + 1) })
            }
        }
    };
    read().unwrap_or(Wanted::All)
}

/// Reads `Content-Range` of a piece that is sent: `0-99` as the distribution specification has it, or `bytes 0-99/100`.
pub(super) fn sent(range: &str) -> Option<(u64, u64)> {
    let range = range.trim();
    let range = range.strip_prefix("bytes").map_or(range, |rest| rest.trim_start_matches([' ', '=']));
    let range = range.split_once('/').map_or(range, |(range, _)| range);
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last && last < u64::MAX).then_some((first, last))
}

/// Digits alone: neither a sign nor white space.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_are_asked_for() {
        let check =
            |range: &str, size, expect| assert_eq!(wanted(Some(range), size), expect, "{range} of {size}");
        check("bytes=0-9", 100, Wanted::Part(0, 10));
        check("bytes=90-", 100, Wanted::Part(90, 10));
        check("bytes=-10", 100, Wanted::Part(90, 10));
        check("bytes=-200", 100, Wanted::Part(0, 100));
        check("bytes=50-1000", 100, Wanted::Part(50, 50));
        check("bytes=0-18446744073709551615", 100, Wanted::Part(0, 100));
        check("bytes=100-", 100, Wanted::Beyond);
        check("bytes=-0", 100, Wanted::Beyond);
        check("bytes=0-0", 0, Wanted::Beyond);
        for range in [
            "bytes=9-0",
            "bytes=a-b",
            "bytes=0-1,5-6",
            "bytes=--1",
            "bytes=",
            "chars=0-1",
            "bytes=0-99999999999999999999",
        ] {
            check(range, 100, Wanted::All);
        }
        assert_eq!(wanted(None, 100), Wanted::All);
    }

    #[test]
    fn ranges_that_are_sent() {
        let check = |range: &str, expect| assert_eq!(sent(range), expect, "{range}");
        check("0-99", Some((0, 99)));
        check("bytes 0-99/100", Some((0, 99)));
        check("bytes=5-6", Some((5, 6)));
        check("6-5", None);
        check("-5", None);
        check("0-18446744073709551615", None);
        check("+0-5", None);
        check("", None);
    }
}

//! Instants as SigV4 writes them: whole seconds of UTC, as `YYYYMMDDTHHMMSSZ`.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use time::format_description::well_known::Rfc2822;
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

/// 9999-12-31T23:59:59Z, the last second that four digits of year can write.
const UNIX_S_MAX: i64 = 253_402_300_799;

/// A second of UTC between 1970 and 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    unix_s: i64,
}

impl Timestamp {
    /// The instant `unix_s` seconds after 1970-01-01T00:00:00Z; values outside 1970..=9999 become the nearer end.
    pub fn from_unix_s(unix_s: i64) -> Self {
        Self { unix_s: unix_s.clamp(0, UNIX_S_MAX) }
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub fn unix_s(self) -> i64 {
        self.unix_s
    }

    /// Reads `YYYYMMDDTHHMMSSZ`, the only form that `X-Amz-Date` may have; `None` for anything else.
    pub fn parse_iso_basic(text: &str) -> Option<Self> {
        let b: &[u8; 16] = text.as_bytes().try_into().ok()?;
        if b[8] != b'T' || b[15] != b'Z' {
            return None;
        }
        let month = Month::try_from(digits(&b[4..6])? as u8).ok()?;
        let date =
            Date::from_calendar_date(i32::from(digits(&b[..4])?), month, digits(&b[6..8])? as u8).ok()?;
        let [hour, minute, second] = [&b[9..11], &b[11..13], &b[13..15]].map(digits);
        let clock = Time::from_hms(hour? as u8, minute? as u8, second? as u8).ok()?;
        Self::in_range(PrimitiveDateTime::new(date, clock).assume_utc())
    }

    /// Reads an HTTP date (`Sun, 30 Aug 2015 12:36:00 GMT`, RFC 9110 §5.6.7, or with a numeric zone as RFC 2822 has it).
    pub fn parse_http(text: &str) -> Option<Self> {
        Self::in_range(OffsetDateTime::parse(text, &Rfc2822).ok()?)
    }

    /// The day of this instant as `YYYYMMDD`, which opens a credential scope.
    pub fn date(self) -> String {
        let mut text = self.to_string();
        text.truncate(8);
        text
    }

    /// This instant moved by `seconds`, kept within 1970..=9999.
    pub(crate) fn plus_s(self, seconds: i64) -> Self {
        Self::from_unix_s(self.unix_s.saturating_add(seconds))
    }

    fn in_range(instant: OffsetDateTime) -> Option<Self> {
        let unix_s = instant.unix_timestamp();
        (0..=UNIX_S_MAX).contains(&unix_s).then_some(Self { unix_s })
    }
}

impl From<SystemTime> for Timestamp {
    fn from(instant: SystemTime) -> Self {
        let since_epoch = instant.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_unix_s(i64::try_from(since_epoch.as_secs()).unwrap_or(UNIX_S_MAX))
    }
}

/// Writes `YYYYMMDDTHHMMSSZ`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = OffsetDateTime::from_unix_timestamp(self.unix_s).expect("1970..=9999 is within the calendar");
        let (year, month, day) = t.to_calendar_date();
        let month = u8::from(month);
        write!(f, "{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", t.hour(), t.minute(), t.second())
    }
}

/// The number that up to four ASCII digits write.
fn digits(text: &[u8]) -> Option<u16> {
    text.iter().try_fold(0, |n: u16, b| b.is_ascii_digit().then(|| n * 10 + u16::from(b - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_iso_basic() {
        for text in ["19700101T000000Z", "20150830T123600Z", "20240229T235959Z", "99991231T235959Z"] {
            assert_eq!(Timestamp::parse_iso_basic(text).unwrap().to_string(), text);
        }
        assert_eq!(Timestamp::parse_iso_basic("20150830T123600Z").unwrap().unix_s(), 1_440_938_160);
        assert_eq!(Timestamp::from_unix_s(1_440_938_160).date(), "20150830");
    }

    #[test]
    fn refuses_other_forms() {
        let refused = [
            "",
            "20150830",
            "2015-08-30T12:36:00Z",
            "20150830T123600",
            "20150830T123600z",
            "20150830t123600Z",
            "20150230T123600Z",
            "20151330T123600Z",
            "20150830T246000Z",
            "20150830T123660Z",
            "19691231T235959Z",
            "+0150830T123600Z",
            "20150830T12 600Z",
            "２0150830T123600",
            "20150830T123600Z ",
            "00000000T000000Z",
        ];
        for text in refused {
            assert_eq!(Timestamp::parse_iso_basic(text), None, "{text:?}");
        }
    }

    #[test]
    fn reads_http_dates() {
        let expect = Timestamp::parse_iso_basic("20150830T123600Z");
        for text in [
            "Sun, 30 Aug 2015 12:36:00 GMT",
            "Sun, 30 Aug 2015 12:36:00 -0000",
            "Sun, 30 Aug 2015 14:36:00 +0200",
        ] {
            assert_eq!(Timestamp::parse_http(text), expect, "{text:?}");
        }
        for text in ["", "yesterday", "Sun, 31 Feb 2015 12:36:00 GMT", "20150830T123600Z"] {
            assert_eq!(Timestamp::parse_http(text), None, "{text:?}");
        }
    }

    #[test]
    fn clamps_what_four_digits_cannot_write() {
        assert_eq!(Timestamp::from_unix_s(i64::MIN).to_string(), "19700101T000000Z");
        assert_eq!(Timestamp::from_unix_s(i64::MAX).to_string(), "99991231T235959Z");
    }
}

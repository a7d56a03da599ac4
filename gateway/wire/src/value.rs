//! Scalar values that Rust has no type for: timestamps, blobs and documents.

use std::fmt;

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// Free-form JSON, for members of a model's `document` type.
pub type Document = serde_json::Value;

/// A point in time with millisecond precision, between the years 0000 and 9999.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    epoch_ms: i64,
}

/// How a protocol or a model writes a timestamp (Smithy's `timestampFormat` trait).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeFormat {
    /// Seconds since 1970 with an optional fraction; what JSON protocols use unless told otherwise.
    EpochSeconds,
    /// ISO 8601 in UTC (RFC 3339); what the query protocol uses unless told otherwise.
    Iso8601,
    /// The date format of HTTP headers (RFC 9110 §5.6.7).
    HttpDate,
}

const HTTP_DATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second][optional [.[subsecond]]] GMT"
);
const HTTP_DATE_WHOLE: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

impl Timestamp {
    /// 0000-01-01T00:00:00Z, the earliest time all formats can write.
    pub const MIN: Timestamp = Timestamp { epoch_ms: -62_167_219_200_000 };
    /// 9999-12-31T23:59:59.999Z, the latest time all formats can write.
    pub const MAX: Timestamp = Timestamp { epoch_ms: 253_402_300_799_999 };

    /// A timestamp from milliseconds since 1970, clamped to [`Timestamp::MIN`] and [`Timestamp::MAX`].
    pub const fn from_millis(epoch_ms: i64) -> Self {
        if epoch_ms < Self::MIN.epoch_ms {
            Self::MIN
        } else if epoch_ms > Self::MAX.epoch_ms {
            Self::MAX
        } else {
            Self { epoch_ms }
        }
    }

    /// A timestamp from seconds since 1970; `None` when it is not a number or outside the supported years.
    pub fn from_seconds(seconds: f64) -> Option<Self> {
        let epoch_ms = (seconds * 1000.0).round();
        let range = Self::MIN.epoch_ms as f64..=Self::MAX.epoch_ms as f64;
        range.contains(&epoch_ms).then_some(Self { epoch_ms: epoch_ms as i64 })
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> i64 {
        self.epoch_ms
    }

    /// Seconds since 1970.
    pub fn as_seconds(self) -> f64 {
        self.epoch_ms as f64 / 1000.0
    }

    /// The timestamp as `format` writes it; a zero fraction is left out.
    pub fn format(self, format: TimeFormat) -> String {
        let date = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.epoch_ms) * 1_000_000)
            .expect("a timestamp lies in the years 0000 to 9999");
        let text = match format {
            TimeFormat::EpochSeconds => return self.decimal_seconds(),
            TimeFormat::Iso8601 => date.format(&Rfc3339),
            TimeFormat::HttpDate if date.millisecond() == 0 => date.format(HTTP_DATE_WHOLE),
            TimeFormat::HttpDate => date.format(HTTP_DATE),
        };
        text.expect("both formats can write the years 0000 to 9999")
    }

    /// Reads a timestamp from text; `None` when the text is not of that format.
    pub fn parse(text: &str, format: TimeFormat) -> Option<Self> {
        let date = match format {
            TimeFormat::EpochSeconds => return Self::from_seconds(text.parse().ok()?),
            TimeFormat::Iso8601 => OffsetDateTime::parse(text, &Rfc3339).ok()?,
            TimeFormat::HttpDate => time::PrimitiveDateTime::parse(text, HTTP_DATE).ok()?.assume_utc(),
        };
        let epoch_ms = i64::try_from(date.unix_timestamp_nanos().div_euclid(1_000_000)).ok()?;
        let range = Self::MIN.epoch_ms..=Self::MAX.epoch_ms;
        range.contains(&epoch_ms).then_some(Self { epoch_ms })
    }

    fn decimal_seconds(self) -> String {
        let sign = if self.epoch_ms < 0 { "-" } else { "" };
        let (seconds, millis) = (self.epoch_ms.unsigned_abs() / 1000, self.epoch_ms.unsigned_abs() % 1000);
        match millis {
            0 => format!("{sign}{seconds}"),
            _ => format!("{sign}{seconds}.{millis:03}").trim_end_matches('0').to_owned(),
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.format(TimeFormat::Iso8601))
    }
}

/// Bytes, which every text protocol carries as base64.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob(pub Vec<u8>);

impl Blob {
    /// The bytes as padded standard base64 (RFC 4648 §4).
    pub fn to_base64(&self) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(&self.0)
    }

    /// Reads padded standard base64; `None` when the text is not base64.
    pub fn from_base64(text: &str) -> Option<Self> {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.decode(text).ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_read_back_what_they_wrote() {
        let check = |epoch_ms: i64, format: TimeFormat, text: &str| {
            let timestamp = Timestamp::from_millis(epoch_ms);
            assert_eq!(timestamp.format(format), text);
            assert_eq!(Timestamp::parse(text, format), Some(timestamp), "{text}");
        };
        check(1_700_000_000_123, TimeFormat::EpochSeconds, "1700000000.123");
        check(1_700_000_000_100, TimeFormat::EpochSeconds, "1700000000.1");
        check(1_700_000_000_000, TimeFormat::EpochSeconds, "1700000000");
        check(-1, TimeFormat::EpochSeconds, "-0.001");
        check(1_398_796_238_000, TimeFormat::Iso8601, "2014-04-29T18:30:38Z");
        check(946_845_296_123, TimeFormat::Iso8601, "2000-01-02T20:34:56.123Z");
        check(-62_167_219_200_000, TimeFormat::Iso8601, "0000-01-01T00:00:00Z");
        check(1_398_796_238_000, TimeFormat::HttpDate, "Tue, 29 Apr 2014 18:30:38 GMT");
        check(946_845_296_456, TimeFormat::HttpDate, "Sun, 02 Jan 2000 20:34:56.456 GMT");
    }

    #[test]
    fn offsets_are_turned_into_utc() {
        let read = |text| Timestamp::parse(text, TimeFormat::Iso8601).map(Timestamp::as_millis);
        assert_eq!(read("2019-12-16T22:48:18-01:00"), read("2019-12-16T23:48:18Z"));
        assert_eq!(read("2019-12-17T00:48:18+01:00"), read("2019-12-16T23:48:18Z"));
    }

    #[test]
    fn times_that_cannot_be_written_are_not_made() {
        assert_eq!(Timestamp::from_seconds(f64::NAN), None);
        assert_eq!(Timestamp::from_seconds(1e300), None);
        assert_eq!(Timestamp::from_millis(i64::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::from_millis(i64::MIN), Timestamp::MIN);
        for format in [TimeFormat::EpochSeconds, TimeFormat::Iso8601, TimeFormat::HttpDate] {
            for limit in [Timestamp::MIN, Timestamp::MAX] {
                assert_eq!(Timestamp::parse(&limit.format(format), format), Some(limit));
            }
            for text in ["", "yesterday", "Infinity", "1e400", "2014-13-01T00:00:00Z"] {
                assert_eq!(Timestamp::parse(text, format), None, "{text}");
            }
        }
    }
}

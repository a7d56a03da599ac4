//! Keys: byte strings, ordered bytewise.

use std::fmt;

use bytes::Bytes;

use crate::limits::MAX_KEY;

/// A key: at most [`MAX_KEY`] bytes, ordered bytewise, cheap to clone. The empty key is only a prefix.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether `prefix` is a prefix of this key; a key is a prefix of itself.
    pub fn starts_with(&self, prefix: &Self) -> bool {
        self.0.starts_with(&prefix.0)
    }

    /// The length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest key greater than this one.
    pub(crate) fn next(&self) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 1);
        bytes.extend_from_slice(&self.0);
        bytes.push(0);
        Self(bytes.into())
    }

    /// The smallest byte string greater than every key with this prefix.
    ///
    /// A prefix of 0xff only has none, so a string longer than any key stands in: equal up to the longest key, it
    /// still sorts after it.
    pub(crate) fn prefix_end(&self) -> Self {
        let kept = self.0.iter().rposition(|&byte| byte != 0xff);
        let bytes = match kept {
            Some(last) => {
                let mut bytes = self.0[..=last].to_vec();
                bytes[last] += 1;
                bytes
            }
            None => vec![0xff; MAX_KEY + 1],
        };
        Self(bytes.into())
    }

    /// Where a scan under `prefix` begins when the caller has already seen `after`.
    pub(crate) fn scan_start(prefix: &Self, after: Option<&Self>) -> Self {
        match after {
            Some(after) if after >= prefix => after.next(),
            _ => prefix.clone(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&Self> for Key {
    fn from(key: &Self) -> Self {
        key.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_end_is_the_least_bound() {
        let check = |prefix: &[u8], expect: &[u8]| {
            assert_eq!(Key::from(prefix.to_vec()).prefix_end().as_bytes(), expect, "{prefix:?}");
        };
        check(b"a", b"b");
        check(b"task!", b"task\"");
        check(b"a\xff", b"b");
        check(b"a\xff\xff", b"b");
        check(b"", &[0xff; MAX_KEY + 1]);
        check(b"\xff\xff", &[0xff; MAX_KEY + 1]);
    }

    #[test]
    fn scans_start_after_what_was_seen_and_inside_the_prefix() {
        let check = |prefix: &str, after: Option<&str>, expect: &[u8]| {
            let after = after.map(Key::from);
            assert_eq!(Key::scan_start(&Key::from(prefix), after.as_ref()).as_bytes(), expect);
        };
        check("b", None, b"b");
        check("b", Some("a"), b"b");
        check("b", Some("b"), b"b\0");
        check("b", Some("bc"), b"bc\0");
        check("b", Some("c"), b"c\0");
    }

    #[test]
    fn display_escapes_what_is_not_text() {
        assert_eq!(Key::from(b"a\x00\xff".to_vec()).to_string(), "a\\x00\\xff");
    }
}

//! Domain names (RFC 1035 §3.1).

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::message::Malformed;

/// Bytes of a name with the lengths of its labels and the root's zero.
const NAME_BYTES_MAX: usize = 255;
/// Bytes of a label.
const LABEL_BYTES_MAX: usize = 63;
/// The two bits that make a pointer of what would be a length.
const POINTER: u8 = 0b1100_0000;

/// A name as it is on the wire, without pointers. Two that differ in the case of letters are the same one.
#[derive(Clone)]
pub(crate) struct Name {
    wire: Vec<u8>,
}

impl Name {
    /// Reads a name of a message at `at`, which is behind it afterwards.
    ///
    /// A pointer leads to before the part of the name that it stands in, so that none leads round.
    pub(crate) fn read(message: &[u8], at: &mut usize) -> Result<Self, Malformed> {
        let mut wire = Vec::new();
        let (mut from, mut position) = (*at, *at);
        let mut is_behind = false;
        loop {
            let length = *message.get(position).ok_or(Malformed)?;
            if length & POINTER == POINTER {
                let low = *message.get(position + 1).ok_or(Malformed)?;
                let target = usize::from(length & !POINTER) << 8 | usize::from(low);
                if !is_behind {
                    *at = position + 2;
                    is_behind = true;
                }
                if target >= from {
                    return Err(Malformed);
                }
                (from, position) = (target, target);
                continue;
            }
            let end = position + 1 + usize::from(length);
            let label = message.get(position..end).ok_or(Malformed)?;
            if usize::from(length) > LABEL_BYTES_MAX || wire.len() + label.len() > NAME_BYTES_MAX {
                return Err(Malformed);
            }
            wire.extend_from_slice(label);
            position = end;
            if length == 0 {
                if !is_behind {
                    *at = position;
                }
                return Ok(Self { wire });
            }
        }
    }

    /// The name of labels with dots between them; `None` if there is none like it.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut wire = Vec::with_capacity(text.len() + 2);
        for label in text.strip_suffix('.').unwrap_or(text).split('.') {
            if label.is_empty() || label.len() > LABEL_BYTES_MAX {
                return None;
            }
            wire.push(label.len() as u8);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        (wire.len() <= NAME_BYTES_MAX).then_some(Self { wire })
    }

    /// Its labels in lower case with dots between them; `None` of one that no private name can be, because a label has
    /// a dot in it or what is not printed.
    pub(crate) fn to_text(&self) -> Option<String> {
        let mut text = String::with_capacity(self.wire.len());
        for label in self.labels() {
            if !label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.') {
                return None;
            }
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        }
        Some(text)
    }

    /// The same name with letters in upper or lower case as `bits` say, which whoever answers has to repeat: what did
    /// not see the question has to guess them (draft-vixie-dnsext-dns0x20).
    pub(crate) fn with_case(&self, mut bits: u128) -> Self {
        let mut wire = self.wire.clone();
        for byte in wire.iter_mut().filter(|byte| byte.is_ascii_alphabetic()) {
            *byte = if bits & 1 == 0 { byte.to_ascii_lowercase() } else { byte.to_ascii_uppercase() };
            bits = bits.rotate_right(1);
        }
        Self { wire }
    }

    /// As on the wire, without pointers.
    pub(crate) fn as_wire(&self) -> &[u8] {
        &self.wire
    }

    fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.wire[..];
        std::iter::from_fn(move || {
            let (&length, after) = rest.split_first().filter(|(length, _)| **length > 0)?;
            let (label, after) = after.split_at_checked(length.into())?;
            rest = after;
            Some(label)
        })
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        // Lengths are no letters.
        self.wire.eq_ignore_ascii_case(&other.wire)
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.wire.iter().for_each(|byte| state.write_u8(byte.to_ascii_lowercase()));
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<String> = self.labels().map(|label| label.escape_ascii().to_string()).collect();
        write!(f, "{}.", labels.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    #[test]
    fn names_are_read_along_pointers_that_lead_back() {
        let check = |message: &[u8], from: usize, expect: Option<(&str, usize)>| {
            let mut at = from;
            let read = Name::read(message, &mut at);
            let read = read.as_ref().ok().map(|name| (format!("{name:?}"), at));
            assert_eq!(read, expect.map(|(text, at)| (text.to_owned(), at)), "{message:?}");
        };
        check(b"\x03www\x02ab\0rest", 0, Some(("www.ab.", 8)));
        check(b"\0", 0, Some((".", 1)));
        check(b"\x02ab\0\x03www\xc0\x00rest", 4, Some(("www.ab.", 10)));
        check(b"\x02ab\0\x01c\xc0\x00\x01d\xc0\x04", 8, Some(("d.c.ab.", 12)));
        // To itself, forwards, round, and to the middle of what it stands in.
        check(b"\xc0\x00", 0, None);
        check(b"\xc0\x02\x01a\0", 0, None);
        check(b"\x01a\xc0\x00", 0, None);
        check(b"\x01a\xc0\x02", 0, None);
        check(b"\xc0\x02\xc0\x00", 2, None);
        // Cut off, a kind of label that there is none of, and too long.
        check(b"\x03ww", 0, None);
        check(b"\x03www", 0, None);
        check(b"\xc0", 0, None);
        check(b"\x41a\0", 0, None);
        let long: Vec<u8> = std::iter::repeat_n(b"\x07abcdefg", 32).flatten().copied().chain([0]).collect();
        check(&long, 0, None);
    }

    #[test]
    fn names_are_the_same_in_either_case() {
        assert_eq!(name("WWW.Example.com"), name("www.example.COM."));
        assert_ne!(name("www.example.com"), name("ww.wexample.com"));
        assert_eq!(name("WWW.Example.com").to_text().as_deref(), Some("www.example.com"));
        assert_eq!(name("ab.c").with_case(0b101).as_wire(), b"\x02Ab\x01C\0");
        assert_eq!(name("ab.c").with_case(0b101), name("ab.c"));
    }

    #[test]
    fn only_names_are_made_of_text() {
        let check = |text: &str, expect: bool| assert_eq!(Name::from_text(text).is_some(), expect, "{text}");
        check("a.b", true);
        check("a..b", false);
        check(".", false);
        check(&"a".repeat(63), true);
        check(&"a".repeat(64), false);
        check(&["abcdefg"; 31].join("."), true);
        check(&["abcdefg"; 32].join("."), false);
        let odd = |wire: &[u8]| Name::read(wire, &mut 0).unwrap().to_text();
        assert_eq!(odd(b"\x03a.b\0"), None);
        assert_eq!(odd(b"\x03a\x00b\0"), None);
        assert_eq!(odd(b"\0").as_deref(), Some(""));
    }
}

//! Positions in a stream or group, and the opaque tokens that carry them to a client and back.
//!
//! Events are ordered by time, then by sequence number. A token is `f/<56 digits>/s` or `b/<56 digits>/s`
//! like AWS's: from there forwards or backwards, the event at the position itself excluded.

/// The place of an event: time, then sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) ts: i64,
    pub(crate) seq: u64,
}

impl Position {
    /// Before every event.
    pub(crate) const START: Self = Self { ts: 0, seq: 0 };
    /// After every event.
    pub(crate) const END: Self = Self { ts: i64::MAX, seq: u64::MAX };

    /// The closest position after this one.
    pub(crate) fn next(self) -> Self {
        Self { seq: self.seq.saturating_add(1), ..self }
    }

    /// The closest position before this one.
    pub(crate) fn previous(self) -> Self {
        match self.seq.checked_sub(1) {
            Some(seq) => Self { seq, ..self },
            None if self.ts > 0 => Self { ts: self.ts - 1, seq: u64::MAX },
            None => Self::START,
        }
    }
}

/// Which way to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Oldest first.
    Forward,
    /// Newest first.
    Backward,
}

impl Direction {
    /// Maps the order of reading to the order of numbers: what is read first is smaller.
    pub(crate) fn rank(self, at: Position) -> (i64, u64) {
        match self {
            Self::Forward => (at.ts, at.seq),
            Self::Backward => (!at.ts, !at.seq),
        }
    }
}

/// Where to read on, and which way. `stream` is 0 for a search over many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) direction: Direction,
    pub(crate) stream: u32,
    pub(crate) at: Position,
}

impl Token {
    pub(crate) fn encode(&self) -> String {
        let letter = match self.direction {
            Direction::Forward => 'f',
            Direction::Backward => 'b',
        };
        format!("{letter}/{}/s", event_id(self.stream, self.at))
    }

    /// Reads a token back; `None` if it is not one of ours.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        let (letter, rest) = text.split_once('/')?;
        let direction = match letter {
            "f" => Direction::Forward,
            "b" => Direction::Backward,
            _ => return None,
        };
        let digits = rest.strip_suffix("/s")?;
        if digits.len() != 56 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let at = Position { ts: digits[..20].parse().ok()?, seq: digits[20..40].parse().ok()? };
        Some(Self { direction, stream: digits[40..].parse().ok()?, at })
    }
}

/// 56 digits: 20 of time, 20 of sequence number, 16 of stream.
pub(crate) fn event_id(stream: u32, at: Position) -> String {
    format!("{:020}{:020}{stream:016}", at.ts, at.seq)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_come_back(forward: bool, stream: u32, ts in 0..=i64::MAX, seq: u64) {
            let direction = if forward { Direction::Forward } else { Direction::Backward };
            let token = Token { direction, stream, at: Position { ts, seq } };
            prop_assert_eq!(Token::decode(&token.encode()), Some(token));
        }

        #[test]
        fn garbage_is_no_token(text in "[fb]?/?\\PC{0,60}(/s)?") {
            if let Some(token) = Token::decode(&text) {
                prop_assert_eq!(token.encode(), text);
            }
        }

        #[test]
        fn ranks_follow_the_direction(a in 0..9i64, b in 0..9u64, c in 0..9i64, d in 0..9u64) {
            let (x, y) = (Position { ts: a, seq: b }, Position { ts: c, seq: d });
            prop_assert_eq!(Direction::Forward.rank(x) < Direction::Forward.rank(y), x < y);
            prop_assert_eq!(Direction::Backward.rank(x) < Direction::Backward.rank(y), x > y);
        }
    }
}

//! Reading a pattern character by character, remembering where.

use super::InvalidFilterPattern;

/// A position in a pattern. Positions count characters, so that an error points where a person looks.
pub(super) struct Cursor {
    chars: Vec<char>,
    at: usize,
}

impl Cursor {
    pub(super) fn new(text: &str) -> Self {
        Self { chars: text.chars().collect(), at: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += 1;
        Some(next)
    }

    /// Whether the rest starts with `text`.
    pub(super) fn looking_at(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(i, c)| self.chars.get(self.at + i) == Some(&c))
    }

    /// Consumes `text` if the rest starts with it.
    pub(super) fn accept(&mut self, text: &str) -> bool {
        let found = self.looking_at(text);
        if found {
            self.at += text.chars().count();
        }
        found
    }

    pub(super) fn expect(&mut self, text: &str, reason: &str) -> Result<(), InvalidFilterPattern> {
        if self.accept(text) { Ok(()) } else { Err(self.error(reason)) }
    }

    pub(super) fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    pub(super) fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let start = self.at;
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    pub(super) fn error(&self, reason: &str) -> InvalidFilterPattern {
        self.error_at(self.at, reason)
    }

    pub(super) fn error_at(&self, position: usize, reason: &str) -> InvalidFilterPattern {
        InvalidFilterPattern { position, reason: reason.to_owned() }
    }
}

//! Rust source without its comments and texts, for checks that look for words.

/// A source file as the laws see it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// All code; comments, strings and character literals are blanked.
    pub(crate) code: String,
    /// The code before the tests.
    pub(crate) production: String,
}

impl Source {
    /// Reads a file. By the house style the tests stand last, so that the first `#[cfg(test)] mod` begins them.
    pub(crate) fn new(text: &str, is_test: bool) -> Self {
        let code = blank(text);
        let production = if is_test { String::new() } else { before_tests(&code).to_owned() };
        Self { code, production }
    }
}

/// How often `word` stands in `code` by itself.
pub(crate) fn words(code: &str, word: &str) -> usize {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let stands_alone = |start: usize| {
        !is_part(code[..start].chars().next_back()) && !is_part(code[start + word.len()..].chars().next())
    };
    code.match_indices(word).filter(|(start, _)| stands_alone(*start)).count()
}

fn before_tests(code: &str) -> &str {
    let mut offset = 0;
    for line in code.split_inclusive('\n') {
        if line.trim_end() == "#[cfg(test)]" {
            return &code[..offset];
        }
        offset += line.len();
    }
    code
}

/// What a position in the source is part of.
enum Place {
    Code,
    LineComment,
    /// Block comments nest.
    BlockComment(u32),
    /// A string that ends with a quote and this many hashes; only one without hashes knows escapes.
    Text {
        hashes: usize,
        is_raw: bool,
    },
}

/// Replaces comments, strings and character literals with spaces; lines stay where they are.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut place = Place::Code;
    let mut i = 0;
    while i < bytes.len() {
        let rest = &bytes[i..];
        let (next, taken) = match &place {
            Place::Code => enter(rest, bytes[..i].last().copied()),
            Place::LineComment => (if rest[0] == b'\n' { Some(Place::Code) } else { None }, 1),
            Place::BlockComment(depth) => match rest {
                [b'*', b'/', ..] if *depth == 1 => (Some(Place::Code), 2),
                [b'*', b'/', ..] => (Some(Place::BlockComment(depth - 1)), 2),
                [b'/', b'*', ..] => (Some(Place::BlockComment(depth + 1)), 2),
                _ => (None, 1),
            },
            Place::Text { hashes, is_raw } => match rest {
                [b'\\', _, ..] if !is_raw => (None, 2),
                [b'"', after @ ..]
                    if after.len() >= *hashes && after[..*hashes].iter().all(|b| *b == b'#') =>
                {
                    (Some(Place::Code), 1 + hashes)
                }
                _ => (None, 1),
            },
        };
        let is_code = matches!(place, Place::Code) && next.is_none() && taken == 1;
        let kept = rest[..taken].iter().map(|b| if is_code || *b == b'\n' { *b } else { b' ' });
        out.extend(kept);
        place = next.unwrap_or(place);
        i += taken;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What begins here, if anything, and how many bytes it takes to begin. A character literal begins and ends at once.
fn enter(rest: &[u8], before: Option<u8>) -> (Option<Place>, usize) {
    let in_word = before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    match rest {
        [b'/', b'/', ..] => (Some(Place::LineComment), 2),
        [b'/', b'*', ..] => (Some(Place::BlockComment(1)), 2),
        [b'"', ..] => (Some(Place::Text { hashes: 0, is_raw: false }), 1),
        [b'r', after @ ..] if !in_word || before == Some(b'b') => {
            let hashes = after.iter().take_while(|b| **b == b'#').count();
            match after.get(hashes) {
                Some(b'"') => (Some(Place::Text { hashes, is_raw: true }), 2 + hashes),
                _ => (None, 1),
            }
        }
        [b'\'', ..] => (None, character(rest)),
        _ => (None, 1),
    }
}

/// The length of a character literal, or 1 for the mark of a lifetime.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        // The escaped byte may be a quote itself.
        return rest.iter().skip(3).position(|b| *b == b'\'').map_or(1, |end| end + 4);
    }
    // One character of up to four bytes, then the closing quote; a lifetime has none so near, or an identifier before it.
    let first = rest.get(1).copied().unwrap_or(b'\'');
    let length = match first {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    if rest.get(1 + length) == Some(&b'\'') { length + 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_code_only() {
        let check = |text: &str, expect: usize| assert_eq!(words(&blank(text), "unsafe"), expect, "{text}");
        check("unsafe { f() }", 1);
        check("#![forbid(unsafe_code)]", 0);
        check("// unsafe\nunsafe fn f() {}", 1);
        check("/* unsafe /* unsafe */ unsafe */ x", 0);
        check(r#"let a = "unsafe"; let b = "\" unsafe";"#, 0);
        check(r##"let a = r"\"; unsafe {} let b = r#"" unsafe"#;"##, 1);
        check("let a = '\"'; unsafe {}", 1);
        check("let a = '\\''; unsafe {}", 1);
        check("let a = '“'; unsafe {}", 1);
        check("fn f<'a>(a: &'a str) { unsafe {} }", 1);
        check("let bytes = b\"unsafe\"; let raw = br#\"unsafe\"#;", 0);
    }

    #[test]
    fn keeps_lines() {
        let text = "a // b\n/* c\nd */ e\n\"f\ng\"\n";
        assert_eq!(blank(text).lines().count(), text.lines().count());
        assert_eq!(blank("ab\n\"cd\"\n"), "ab\n    \n");
    }

    #[test]
    fn cuts_before_the_tests() {
        let source = Source::new("a\n#[cfg(test)]\nmod tests {}\n", false);
        assert_eq!(source.production, "a\n");
        assert!(Source::new("a\n", true).production.is_empty());
    }
}

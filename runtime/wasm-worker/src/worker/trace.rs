//! Where a trap happened, as text for people.
//!
//! Names and files come from the guest's own binary, so that they are cut, and nothing in them is obeyed by a
//! terminal that shows them.

use std::fmt::Write as _;

use wasmtime::WasmBacktrace;

/// Frames that are told.
const FRAMES_TOLD_MAX: usize = 8;
/// Characters of a name or a file that are told.
const NAME_CHARS_MAX: usize = 160;
/// How the names begin of functions that a Rust program goes through from its panic to the trap.
const MACHINERY: [&str; 6] = ["std::", "core::", "alloc::", "panic_abort::", "__rust", "rust_"];
/// Where the sources of Rust's standard library were when it was compiled.
const MACHINERY_SOURCES: &str = "/rustc/";

/// One frame.
#[derive(Clone, Copy, Debug, Default)]
struct Place<'a> {
    function: Option<&'a str>,
    index: u32,
    source: Option<(&'a str, u32)>,
}

/// The frames of a backtrace, innermost first, one a line. Those between a panic and its trap are counted only.
pub(super) fn told(trace: Option<&WasmBacktrace>) -> String {
    let frames = trace.map_or(&[][..], WasmBacktrace::frames);
    let places: Vec<Place<'_>> = frames
        .iter()
        .map(|frame| {
            let symbol = frame.symbols().first();
            Place {
                function: symbol.and_then(|symbol| symbol.name()).or_else(|| frame.func_name()),
                index: frame.func_index(),
                source: symbol.and_then(|symbol| Some((symbol.file()?, symbol.line()?))),
            }
        })
        .collect();
    lines(&places)
}

fn lines(places: &[Place<'_>]) -> String {
    let mut text = String::new();
    // All of a stack can be machinery, when the program is stripped; it is better than nothing then.
    let machinery = places.iter().take_while(|place| is_machinery(place)).count() % places.len().max(1);
    if machinery > 0 {
        let _ = write!(text, "\n  at {machinery} frames of Rust's standard library");
    }
    let rest = &places[machinery..];
    for place in rest.iter().take(FRAMES_TOLD_MAX) {
        let _ = match place.function {
            Some(name) => write!(text, "\n  at {}", harmless(&demangled(name))),
            None => write!(text, "\n  at function {}", place.index),
        };
        if let Some((file, line)) = place.source {
            let _ = write!(text, " ({}:{line})", harmless(file));
        }
    }
    if rest.len() > FRAMES_TOLD_MAX {
        let _ = write!(text, "\n  and {} more", rest.len() - FRAMES_TOLD_MAX);
    }
    text
}

fn is_machinery(place: &Place<'_>) -> bool {
    let is_source = place.source.is_some_and(|(file, _)| file.starts_with(MACHINERY_SOURCES));
    let is_function = place.function.is_some_and(|name| {
        let name = demangled(name);
        name == "abort" || MACHINERY.iter().any(|start| name.starts_with(start))
    });
    is_source || is_function
}

/// A Rust name as it was written, without the hash that the compiler adds.
fn demangled(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

fn harmless(text: &str) -> String {
    let visible = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut cut: String = text.chars().take(NAME_CHARS_MAX).map(visible).collect();
    if text.chars().nth(NAME_CHARS_MAX).is_some() {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place<'a>(function: &'a str, source: Option<(&'a str, u32)>) -> Place<'a> {
        Place { function: Some(function), index: 0, source }
    }

    #[test]
    fn names_and_lines() {
        let places = [
            place("_ZN5guest5inner17h0123456789abcdefE", Some(("src/main.rs", 7))),
            place("_RNvCs4fqI2P2rA04_5guest4main", None),
            Place { index: 3, ..Place::default() },
        ];
        assert_eq!(lines(&places), "\n  at guest::inner (src/main.rs:7)\n  at guest::main\n  at function 3");
        assert_eq!(lines(&[]), "");
    }

    #[test]
    fn machinery_is_counted_only() {
        let user = place("guest::inner", Some(("src/main.rs", 7)));
        let library = place("anything", Some(("/rustc/0123/library/std/src/panicking.rs", 1)));
        let places = [place("abort", None), place("__rust_start_panic", None), library, user, library];
        let expect = "\n  at 3 frames of Rust's standard library\n  at guest::inner (src/main.rs:7)\n  at anything \
                      (/rustc/0123/library/std/src/panicking.rs:1)";
        assert_eq!(lines(&places), expect);
        assert_eq!(lines(&places[..1]), "\n  at abort");
    }

    #[test]
    fn much_is_cut_and_nothing_is_obeyed() {
        let long = "x".repeat(1 << 20);
        let text = lines(&[place(&long, Some((&long, 1)))]);
        assert!(text.chars().count() < 2 * NAME_CHARS_MAX + 20, "{} characters", text.chars().count());
        let text = lines(&[place("\u{1b}]0;title\u{7}", Some(("a\nb", 1)))]);
        assert_eq!(text, "\n  at \u{fffd}]0;title\u{fffd} (a\u{fffd}b:1)");
        let deep = [place("recurse", None); 20];
        assert!(lines(&deep).ends_with("\n  and 12 more"));
    }
}

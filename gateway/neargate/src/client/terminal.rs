//! Text of tasks on a terminal.
//!
//! A terminal obeys what it shows: an escape sequence can retitle it, move its cursor over what was there before,
//! or make some of them type. A task's text may colour itself and no more. Into files and pipes everything goes
//! unchanged; that is for the callers to tell apart.

use std::borrow::Cow;

/// Ends all colours.
const RESET: &str = "\x1b[0m";
/// What stands for a control character that Unicode has no picture of.
const REPLACEMENT: char = '\u{fffd}';

/// A line of text without anything that a terminal would obey but tabs and, if wanted, colours; control
/// characters are shown as their pictures (Unicode, Control Pictures).
pub(crate) fn harmless(line: &str, colour: bool) -> Cow<'_, str> {
    if !line.chars().any(is_obeyed) {
        return Cow::Borrowed(line);
    }
    let mut shown = String::with_capacity(line.len() + RESET.len());
    let mut is_coloured = false;
    let mut rest = line;
    while let Some(character) = rest.chars().next() {
        let length = match colour_sequence(rest) {
            Some(length) => {
                if colour {
                    shown.push_str(&rest[..length]);
                    is_coloured = true;
                }
                length
            }
            None => {
                shown.push(picture(character));
                character.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    if is_coloured {
        shown.push_str(RESET);
    }
    Cow::Owned(shown)
}

/// Control characters of both sets (ECMA-48 §5.2, §5.3), but for the tab.
fn is_obeyed(character: char) -> bool {
    character.is_control() && character != '\t'
}

fn picture(character: char) -> char {
    match character {
        '\u{7f}' => '\u{2421}',
        control if is_obeyed(control) => {
            char::from_u32(0x2400 + u32::from(control)).filter(|_| control < ' ').unwrap_or(REPLACEMENT)
        }
        plain => plain,
    }
}

/// The length of a sequence at the start that selects how text looks: `ESC [`, numbers, `m` (ECMA-48 §8.3.117).
fn colour_sequence(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !(c.is_ascii_digit() || c == ';' || c == ':'))?;
    parameters[end..].starts_with('m').then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_colours_are_obeyed() {
        let check = |line: &str, expect: &str| assert_eq!(harmless(line, true), expect, "{line:?}");
        check("plain\ttext 漢字 é", "plain\ttext 漢字 é");
        check("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m\x1b[0m");
        check("\x1b[38:5:1;4mred", "\x1b[38:5:1;4mred\x1b[0m");
        check("\x1b]0;title\x07", "␛]0;title␇");
        check("\x1b[2J\x1b[1;1H\x1b[6n", "␛[2J␛[1;1H␛[6n");
        check("\x1b[?31m\x1b[ m", "␛[?31m␛[ m");
        check("\x1b[31", "␛[31");
        check("over\rwritten\x08\0\x7f", "over␍written␈␀␡");
        // The eight-bit form of ESC [.
        check("\u{9b}31m", "\u{fffd}31m");
        check("\x1bPq\x1b\\", "␛Pq␛\\");
    }

    #[test]
    fn without_colours_nothing_is_obeyed() {
        assert_eq!(harmless("\x1b[31mred\x1b[0m", false), "red");
        assert!(matches!(harmless("red", false), Cow::Borrowed("red")));
    }
}

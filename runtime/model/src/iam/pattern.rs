//! Texts with wildcards.

/// Whether a text matches a pattern, in which `*` stands for any characters and `?` for one.
///
/// Linear but for what the last `*` has to take back, so that no pattern takes more than the product of both lengths.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // The last `*`, and how far it has come.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(one) if *one == '?' || *one == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, t) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|rest| *rest == '*')
}

/// As [`matches`], whatever the case of letters.
pub(super) fn matches_ignoring_case(pattern: &str, text: &str) -> bool {
    matches(&pattern.to_ascii_lowercase(), &text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, text, expect) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*c", "abbbc", true),
            ("a*c", "abbb", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*ab*ab", "abab", true),
            ("*ab*ab*ab", "abab", false),
            ("arn:aws:ecs:*:*:task/c/*", "arn:aws:ecs:us-east-1:1:task/c/0", true),
            ("arn:aws:ecs:*:*:task/c/*", "arn:aws:ecs:us-east-1:1:task/d/0", false),
            ("Ä?", "Äé", true),
            ("A", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expect, "{pattern} {text}");
        }
        assert!(matches_ignoring_case("ECS:run*", "ecs:RunTask"));
    }

    #[test]
    fn hostile_patterns_take_no_time() {
        let (pattern, text) = ("*a".repeat(3000) + "b", "a".repeat(3000));
        assert!(!matches(&pattern, &text));
    }
}

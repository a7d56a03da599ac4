//! Writes one section of a file that belongs to somebody else: everything around it stays byte for byte.

/// Whether the file has a section of this name.
pub(crate) fn has_section(text: &str, name: &str) -> bool {
    find(text, name).is_some()
}

/// The file with the section `[name]` holding exactly these properties: replaced where it stands, else added at the end.
///
/// Blank lines and comments before the next section belong to that one and stay. Line ends are those of the file.
pub(crate) fn set_section(text: &str, name: &str, properties: &[(&str, &str)]) -> String {
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut section = format!("[{name}]{end}");
    for (key, value) in properties {
        section.push_str(&format!("{key} = {value}{end}"));
    }
    match find(text, name) {
        Some((start, stop)) => {
            // The last line of the file may lack its line end.
            format!("{}{section}{}", &text[..start], &text[stop..])
        }
        None => {
            let line_end = if text.is_empty() || text.ends_with('\n') { "" } else { end };
            let blank = if text.trim().is_empty() { "" } else { end };
            format!("{text}{line_end}{blank}{section}")
        }
    }
}

/// Where a section's header begins, and where its last property ends.
fn find(text: &str, name: &str) -> Option<(usize, usize)> {
    let mut found: Option<(usize, usize)> = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        match (header(line), &mut found) {
            (Some(_), Some(found)) => return Some(*found),
            (Some(header), None) if header == name => found = Some((start, at)),
            (None, Some((_, stop))) if !is_empty(line) => *stop = at,
            _ => {}
        }
    }
    found
}

/// The name in a section's header, with single spaces and without quotes.
fn header(line: &str) -> Option<String> {
    let (name, _) = line.strip_prefix('[')?.split_once(']')?;
    let words = name.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
    Some(words.collect::<Vec<_>>().join(" "))
}

fn is_empty(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with(['#', ';'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &[(&str, &str)] = &[("a", "1"), ("b", "x=y")];

    fn check(before: &str, expect: &str) {
        let after = set_section(before, "profile dev", NEW);
        assert_eq!(after, expect);
        assert!(has_section(&after, "profile dev"));
        assert_eq!(set_section(&after, "profile dev", NEW), expect, "a second time changes nothing");
    }

    #[test]
    fn a_new_section_is_added_at_the_end() {
        check("", "[profile dev]\na = 1\nb = x=y\n");
        check("[default]\nx=1\n", "[default]\nx=1\n\n[profile dev]\na = 1\nb = x=y\n");
        check("[default]\nx=1", "[default]\nx=1\n\n[profile dev]\na = 1\nb = x=y\n");
        check("[default]\r\nx=1\r\n", "[default]\r\nx=1\r\n\r\n[profile dev]\r\na = 1\r\nb = x=y\r\n");
        check("[profile development]\n", "[profile development]\n\n[profile dev]\na = 1\nb = x=y\n");
    }

    #[test]
    fn an_old_section_is_replaced_and_all_else_stays() {
        check(
            "# mine\n[default]\n  x = 1 ; odd\n\n[profile dev]\nold=1\n# old comment\ns3 =\n  nested = 2\n\n\
             # of the next\n[profile z]\ty\n[broken\n",
            "# mine\n[default]\n  x = 1 ; odd\n\n[profile dev]\na = 1\nb = x=y\n\n# of the next\n[profile z]\ty\n\
             [broken\n",
        );
        check("[ profile  \"dev\" ] # mine\nold=1", "[profile dev]\na = 1\nb = x=y\n");
        check("[profile dev]\n\n[x]\n", "[profile dev]\na = 1\nb = x=y\n\n[x]\n");
    }

    #[test]
    fn sections_are_found_by_their_whole_name() {
        let text = "[profile dev]\n#[profile no]\n x=[profile inner]\n";
        assert!(has_section(text, "profile dev"));
        for name in ["dev", "profile no", "profile inner", "profile de"] {
            assert!(!has_section(text, name), "{name}");
        }
    }
}

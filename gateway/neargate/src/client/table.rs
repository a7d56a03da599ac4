//! Tables of text, aligned with spaces.

/// A table with a header; each column is as wide as its widest cell, and lines have no space at their end.
///
/// Characters that would move a terminal's cursor become spaces, since cells hold texts of others.
pub(crate) fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let header = headers.iter().map(|header| (*header).to_owned()).collect();
    let clean = |row: &Vec<String>| row.iter().map(|cell| clean(cell)).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = std::iter::once(header).chain(rows.iter().map(clean)).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Lines of a name and a value, the values aligned; absent values are left out.
pub(crate) fn pairs(pairs: &[(&str, Option<String>)]) -> String {
    let shown = || pairs.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
    let width = shown().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    shown().map(|(name, value)| format!("{name:<width$}  {}\n", clean(value))).collect()
}

fn clean(cell: &str) -> String {
    cell.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let check = |rows: &[&[&str]], expect: &str| {
            let rows: Vec<_> =
                rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
            assert_eq!(table(&["A", "BB", "C"], &rows), expect);
        };
        check(&[], "A  BB  C\n");
        check(&[&["long", "x", "y"], &["é", "", ""]], "A     BB  C\nlong  x   y\né\n");
        check(&[&["a\nb", "\u{1b}[31mred", ""]], "A    BB        C\na b   [31mred\n");
    }

    #[test]
    fn pairs_leave_out_what_is_absent() {
        let text =
            pairs(&[("Task", Some("1".into())), ("Reason", Some("x\ty".into())), ("Stopping at", None)]);
        assert_eq!(text, "Task    1\nReason  x y\n");
    }
}

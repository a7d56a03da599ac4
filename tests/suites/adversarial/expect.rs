//! Compares what an intruder printed with what is allowed.

use anyhow::{Result, ensure};

/// Fails unless the lines of `output` are those of `expected`, in their order.
///
/// An expected outcome may be a choice, `EROFS|ENOENT`, where it depends on the host's kernel. Empty lines and those that
/// begin with `#` are for people.
#[track_caller]
pub(crate) fn expect(expected: &str, output: &str) -> Result<()> {
    let expected: Vec<&str> =
        expected.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let output: Vec<&str> = output.lines().collect();
    let wrong: Vec<String> = (0..expected.len().max(output.len()))
        .map(|at| (expected.get(at).copied(), output.get(at).copied()))
        .filter(|(expected, output)| {
            !expected.zip(*output).is_some_and(|(expected, line)| allows(expected, line))
        })
        .map(|(expected, output)| {
            format!("{}\n    instead of: {}", output.unwrap_or("-"), expected.unwrap_or("-"))
        })
        .collect();
    ensure!(wrong.is_empty(), "{} lines are not as they should be:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

fn allows(expected: &str, line: &str) -> bool {
    let parted = |text: &str| text.rsplit_once(": ").map(|(name, what)| (name.to_owned(), what.to_owned()));
    match (parted(expected), parted(line)) {
        (Some((name, choices)), Some((tried, outcome))) => {
            name == tried && choices.split('|').any(|choice| choice == outcome)
        }
        _ => expected == line,
    }
}

//! Licences: every package we build on must allow us to ship under MIT or Apache-2.0.

use anyhow::{Result, ensure};

use crate::graph::Graph;

/// Licences that ask for no more than notices. MPL-2.0 is absent on purpose: it is decided case by case.
const ALLOWED: [&str; 15] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "BSL-1.0",
    "Unlicense",
    "Unicode-3.0",
    "CDLA-Permissive-2.0",
];

/// Fails with the list of packages whose licence is not allowed.
pub(crate) fn check() -> Result<()> {
    let graph = Graph::load()?;
    let refused: Vec<String> = graph
        .packages
        .iter()
        .filter(|(_, package)| !package.licence.as_deref().is_some_and(is_allowed))
        .map(|(name, package)| format!("{name}: {}", package.licence.as_deref().unwrap_or("no licence")))
        .collect();
    ensure!(refused.is_empty(), "licences that are not allowed:\n{}", refused.join("\n"));
    Ok(())
}

/// Whether an SPDX expression can be kept with allowed licences alone. `/` is how old packages write OR.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    any_of(expression.trim())
}

fn any_of(expression: &str) -> bool {
    split(expression, " OR ").into_iter().any(all_of)
}

fn all_of(expression: &str) -> bool {
    split(expression, " AND ").into_iter().all(|part| match inside(part) {
        Some(inner) => any_of(inner),
        None => ALLOWED.contains(&part),
    })
}

/// Cuts at an operator outside of parentheses.
fn split<'e>(expression: &'e str, operator: &str) -> Vec<&'e str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (i, byte) in expression.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b' ' if depth == 0 && i >= start && expression[i..].starts_with(operator) => {
                parts.push(expression[start..i].trim());
                start = i + operator.len();
            }
            _ => {}
        }
    }
    parts.push(expression[start..].trim());
    parts
}

fn inside(part: &str) -> Option<&str> {
    part.strip_prefix('(')?.strip_suffix(')')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_spdx_expressions() {
        let check =
            |expression: &str, expect: bool| assert_eq!(is_allowed(expression), expect, "{expression}");
        check("MIT", true);
        check("MIT/Apache-2.0", true);
        check("GPL-3.0", false);
        check("GPL-3.0 OR MIT", true);
        check("GPL-3.0 AND MIT", false);
        check("(MIT OR GPL-2.0) AND Unicode-3.0", true);
        check("(MIT OR Apache-2.0) AND GPL-2.0", false);
        check("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", true);
        check("", false);
    }
}

//! The scoreboard: what was done, what did not hold, and how long it took to recover.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::checks::{INVARIANTS, Violation};

/// Of one fault so many violations are shown; a file of `--json` has all.
const SHOWN_MAX: usize = 10;

/// One fault.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) fault: String,
    /// Whether the process came to the point.
    pub(crate) is_struck: bool,
    /// Tasks that were accepted before and after it, and judged.
    pub(crate) tasks: usize,
    /// Why the ends of some are not known, as they are told.
    pub(crate) unknown: Vec<String>,
    /// Calls of the API that were judged.
    pub(crate) calls: usize,
    /// The longest time without a beat of a task that ran all the while, in seconds.
    pub(crate) gap_s: f64,
    /// Open descriptors of the server and of its supervisor once all tasks but the lasting ones have ended.
    pub(crate) descriptors: Option<[usize; 2]>,
    /// From the kill to the first answer of the API.
    pub(crate) answers_ms: Option<f64>,
    /// From the kill to the end, rightly told, of a container task that was submitted after it.
    pub(crate) works_ms: Option<f64>,
    pub(crate) violations: Vec<Violation>,
}

/// All faults of a run.
#[derive(Debug, Default)]
pub(crate) struct Board {
    pub(crate) rows: Vec<Row>,
    /// Different ERROR lines of all servers, and how often; an error is no violation by itself.
    pub(crate) errors: Vec<String>,
}

/// The names of the columns.
pub(crate) fn head() -> String {
    let mut text = format!(
        "{:<36}{:>7}{:>9}{:>7}{:>7}{:>12}{:>10}",
        "fault", "tasks", "unknown", "calls", "gap s", "answers ms", "works ms"
    );
    INVARIANTS.iter().for_each(|(_, name)| text.push_str(&format!("{name:>4}")));
    text
}

impl Row {
    /// The row of the table, and below it what does not hold.
    pub(crate) fn shown(&self) -> String {
        let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0}"));
        let mut text = format!(
            "{:<36}{:>7}{:>9}{:>7}{:>7.2}{:>12}{:>10}",
            self.fault,
            self.tasks,
            self.unknown.len(),
            self.calls,
            self.gap_s,
            ms(self.answers_ms),
            ms(self.works_ms)
        );
        for (invariant, _) in INVARIANTS {
            let count = self.violations.iter().filter(|(violated, _)| *violated == invariant).count();
            text.push_str(&format!("{count:>4}"));
        }
        if !self.is_struck {
            text.push_str("  NOT REACHED");
        }
        for (invariant, what) in self.violations.iter().take(SHOWN_MAX) {
            let name = INVARIANTS.iter().find(|(one, _)| one == invariant).map_or("", |(_, name)| name);
            text.push_str(&format!("\n    {name}: {what}"));
        }
        if self.violations.len() > SHOWN_MAX {
            text.push_str(&format!("\n    and {} more", self.violations.len() - SHOWN_MAX));
        }
        text
    }

    fn to_json(&self) -> Value {
        let violations: Vec<Value> = self
            .violations
            .iter()
            .map(|(invariant, what)| {
                let name = INVARIANTS.iter().find(|(one, _)| one == invariant).map_or("", |(_, name)| name);
                json!({"invariant": name, "what": what})
            })
            .collect();
        json!({
            "fault": self.fault, "struck": self.is_struck, "tasks": self.tasks, "unknown": self.unknown,
            "calls": self.calls, "gap_s": self.gap_s, "descriptors": self.descriptors, "answers_ms": self.answers_ms, "works_ms": self.works_ms,
            "violations": violations,
        })
    }
}

impl Board {
    /// How many faults did not happen, and how much did not hold.
    pub(crate) fn failures(&self) -> (usize, usize) {
        let missed = self.rows.iter().filter(|row| !row.is_struck).count();
        (missed, self.rows.iter().map(|row| row.violations.len()).sum())
    }

    /// What all rows come to.
    pub(crate) fn summary(&self) -> String {
        let (missed, violations) = self.failures();
        let sum = |count: fn(&Row) -> usize| self.rows.iter().map(count).sum::<usize>();
        let mut text = format!(
            "{} faults, {missed} not reached; {} tasks, {} calls; {violations} violations",
            self.rows.len(),
            sum(|row| row.tasks),
            sum(|row| row.calls)
        );
        let answers = self.rows.iter().filter_map(|row| row.answers_ms).collect::<Vec<_>>();
        let works = self.rows.iter().filter_map(|row| row.works_ms).collect();
        for (name, mut ms) in [("first answer", answers), ("first task", works)] {
            ms.sort_by(f64::total_cmp);
            if let (Some(median), Some(most)) = (ms.get(ms.len() / 2), ms.last()) {
                text.push_str(&format!(
                    "\nfrom the kill to the {name}: median {median:.0} ms, longest {most:.0} ms"
                ));
            }
        }
        for (name, at) in [("server", 0), ("supervisor", 1)] {
            let counts = self.rows.iter().filter_map(|row| Some(row.descriptors?[at]));
            if let (Some(first), Some(most)) = (counts.clone().next(), counts.max()) {
                text.push_str(&format!("\nopen descriptors of the {name}: {first} at first, {most} at most"));
            }
        }
        text.push_str(&counted(
            "ends that are told not to be known",
            self.rows.iter().flat_map(|row| &row.unknown),
        ));
        text.push_str(&counted("errors in the servers' logs", &self.errors));
        text
    }

    /// All of it, for programs.
    pub(crate) fn to_json(&self, seed: u64) -> Value {
        let (missed, violations) = self.failures();
        json!({
            "seed": seed, "not_reached": missed, "violations": violations, "errors": self.errors,
            "rows": self.rows.iter().map(Row::to_json).collect::<Vec<_>>(),
        })
    }
}

/// How often each text is there, the numbers and names in it left out.
fn counted<'t>(title: &str, texts: impl IntoIterator<Item = &'t String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for text in texts {
        *counts.entry(without_names(text)).or_default() += 1;
    }
    let lines = counts.iter().map(|(text, count)| format!("\n    {count:>5} {text}"));
    if counts.is_empty() { String::new() } else { format!("\n{title}:{}", lines.collect::<String>()) }
}

/// Words with digits are ids, times and numbers.
fn without_names(text: &str) -> String {
    let word = |word: &str| {
        if word.bytes().any(|b| b.is_ascii_digit()) { "…".to_owned() } else { word.to_owned() }
    };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::checks::Invariant;

    #[test]
    fn counts_what_does_not_hold_and_what_did_not_happen() {
        let bad = Row {
            fault: "a".to_owned(),
            is_struck: true,
            violations: vec![(Invariant::Once, "twice".to_owned())],
            ..Row::default()
        };
        let missed = Row { fault: "b".to_owned(), ..Row::default() };
        assert!(bad.shown().ends_with("I2: twice"), "{}", bad.shown());
        assert!(missed.shown().ends_with("NOT REACHED"), "{}", missed.shown());
        let board = Board { rows: vec![bad, missed], ..Board::default() };
        assert_eq!(board.failures(), (1, 1));
    }

    #[test]
    fn names_do_not_keep_reasons_apart() {
        let texts = ["task a1 is lost".to_owned(), "task b2 is lost".to_owned()];
        assert_eq!(counted("t", &texts), "\nt:\n        2 task … is lost");
        assert_eq!(counted("t", &[]), "");
    }
}

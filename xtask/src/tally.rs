//! Counting tests: what libtest, harnesses that print as it does, and pytest say in their last lines.

use std::fmt;

/// How many tests passed, failed and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// The sum of all summary lines in an output.
    pub(crate) fn of_output(output: &str) -> Self {
        let mut sum = Self::default();
        for line in output.lines() {
            sum.add(Self::of_line(line));
        }
        sum
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// `test result: ok. 3 passed; 0 failed; 1 ignored; …` or `== 3 passed, 1 skipped in 0.12s ==`.
    fn of_line(line: &str) -> Self {
        let libtest =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")).map(|(_, rest)| rest);
        let plain = line.trim_matches(['=', ' ']);
        let is_pytest = plain.rsplit_once(" in ").is_some_and(|(_, time)| is_pytest_time(time));
        let Some(counts) = libtest.or(is_pytest.then_some(plain)) else { return Self::default() };
        let mut tally = Self::default();
        for part in counts.split([';', ',']) {
            let mut words = part.split_whitespace();
            let (Some(count), Some(what)) = (words.next(), words.next()) else { continue };
            let Ok(count) = count.parse::<u64>() else { continue };
            match what {
                "passed" => tally.passed += count,
                "failed" | "error" | "errors" => tally.failed += count,
                "ignored" | "skipped" | "xfailed" | "deselected" => tally.skipped += count,
                _ => {}
            }
        }
        tally
    }
}

/// `12.34s`, and beyond a minute `75.01s (0:01:15)`.
fn is_pytest_time(text: &str) -> bool {
    let seconds = text.split(' ').next().and_then(|word| word.strip_suffix('s'));
    seconds.is_some_and(|seconds| seconds.parse::<f64>().is_ok())
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_harness() {
        let check = |output: &str, passed, failed, skipped| {
            assert_eq!(Tally::of_output(output), Tally { passed, failed, skipped }, "{output}");
        };
        check(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 9 filtered out; finished in 0.1s",
            3,
            0,
            1,
        );
        check("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out", 3, 2, 0);
        check("======= 41 passed, 2 skipped in 12.34s =======", 41, 0, 2);
        check("=== 1 failed, 4 passed, 1 error, 3 warnings in 75.01s (0:01:15) ===\n", 4, 2, 0);
        check("7 passed in 0.50s", 7, 0, 0);
        check("test a::b ... ok\nrunning 3 tests in parallel", 0, 0, 0);
    }

    #[test]
    fn sums_all_lines() {
        let output = "test result: ok. 1 passed; 0 failed; 0 ignored\nnoise\ntest result: ok. 2 passed; 0 failed; 1 ignored";
        assert_eq!(Tally::of_output(output).to_string(), "3 passed, 0 failed, 1 skipped");
    }
}

//! What a benchmark says of its samples.

use serde_json::{Value, json};

/// Durations of one way to do the work, in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Who did it and what was seen, for example `neargate, to exit`.
    pub(crate) name: String,
    /// At how many at a time.
    pub(crate) concurrency: usize,
    samples_ms: Vec<f64>,
    /// How many were done in a second, by all together.
    per_second: Option<f64>,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, concurrency: usize, mut samples_ms: Vec<f64>) -> Self {
        samples_ms.sort_by(f64::total_cmp);
        Self { name: name.into(), concurrency, samples_ms, per_second: None }
    }

    /// With how many were done in a second.
    pub(crate) fn at_rate(self, per_second: f64) -> Self {
        Self { per_second: Some(per_second), ..self }
    }

    /// The sample that this share (0 to 1) of all does not exceed.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.samples_ms.len() as f64).ceil() as usize;
        self.samples_ms.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "concurrency": self.concurrency,
            "samples": self.samples_ms.len(),
            "median_ms": self.quantile(0.5),
            "p99_ms": self.quantile(0.99),
            "per_second": self.per_second,
        })
    }
}

/// A table; ratios are to the first row of the same concurrency.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<44}{:>4}{:>8}{:>12}{:>12}{:>10}{:>8}\n",
        "", "K", "n", "median ms", "p99 ms", "per s", "ratio"
    );
    for row in rows {
        let base = rows.iter().find(|base| base.concurrency == row.concurrency).unwrap_or(row);
        let ratio = row.quantile(0.5) / base.quantile(0.5);
        let per_second = row.per_second.map_or("-".to_owned(), |rate| format!("{rate:.0}"));
        text.push_str(&format!(
            "{:<44}{:>4}{:>8}{:>12.2}{:>12.2}{:>10}{:>8.2}\n",
            row.name,
            row.concurrency,
            row.samples_ms.len(),
            row.quantile(0.5),
            row.quantile(0.99),
            per_second,
            ratio,
        ));
    }
    text
}

/// A table of numbers whose columns are not durations alone.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// What each column holds, with its unit.
    pub(crate) columns: Vec<&'static str>,
    /// What was measured, and a number for each column; NaN where there is none.
    pub(crate) rows: Vec<(String, Vec<f64>)>,
}

impl Figures {
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{:<56}", "");
        self.columns.iter().for_each(|column| text.push_str(&format!("{column:>16}")));
        text.push('\n');
        for (name, values) in &self.rows {
            text.push_str(&format!("{name:<56}"));
            for value in values {
                match value.is_nan() {
                    true => text.push_str(&format!("{:>16}", "-")),
                    false => text.push_str(&format!("{value:>16.2}")),
                }
            }
            text.push('\n');
        }
        text
    }

    pub(crate) fn to_json(&self) -> Value {
        let row = |(name, values): &(String, Vec<f64>)| {
            let mut object = serde_json::Map::new();
            object.insert("name".to_owned(), json!(name));
            for (column, value) in self.columns.iter().zip(values) {
                object.insert((*column).to_owned(), json!(value));
            }
            Value::from(object)
        };
        self.rows.iter().map(row).collect()
    }
}

/// The middle one of some values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_quantiles_by_rank() {
        let check = |samples: &[f64], share: f64, expect: f64| {
            assert_eq!(Row::new("", 1, samples.to_vec()).quantile(share), expect, "{samples:?} at {share}");
        };
        check(&[3.0, 1.0, 2.0], 0.5, 2.0);
        check(&[4.0, 1.0, 2.0, 3.0], 0.5, 2.0);
        check(&[1.0, 2.0, 3.0], 0.99, 3.0);
        check(&[7.0], 0.0, 7.0);
        assert!(Row::new("", 1, Vec::new()).quantile(0.5).is_nan());
    }

    #[test]
    fn shows_figures_and_gaps() {
        let figures = Figures { columns: vec!["a", "b"], rows: vec![("x".to_owned(), vec![1.5, f64::NAN])] };
        let words: Vec<String> = figures.table().split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["a", "b", "x", "1.50", "-"]);
        assert_eq!(figures.to_json(), json!([{"name": "x", "a": 1.5, "b": null}]));
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }

    #[test]
    fn compares_rows_of_one_concurrency() {
        let rows = [Row::new("a", 1, vec![2.0]), Row::new("b", 1, vec![5.0]), Row::new("c", 8, vec![9.0])];
        let table = table(&rows);
        let ratios: Vec<_> =
            table.lines().skip(1).map(|line| line.split_whitespace().last().unwrap()).collect();
        assert_eq!(ratios, ["1.00", "2.50", "1.00"]);
    }
}

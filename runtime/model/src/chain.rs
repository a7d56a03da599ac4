//! Errors as text. A message never holds its cause, so whoever shows one walks the chain.

/// An error and its causes in one line, for a log or a task's reason.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Step(&'static str, #[source] Option<Box<Step>>);

    #[test]
    fn causes_follow_what_they_caused() {
        let check = |error: Step, expect: &str| assert_eq!(chain(&error), expect);
        check(Step("start", None), "start");
        let cause = Step("mount layer", Some(Box::new(Step("no such file", None))));
        check(Step("start", Some(Box::new(cause))), "start: mount layer: no such file");
    }
}

//! Which task is meant: an ARN, an id, or the beginning of one.

use anyhow::Result;
use neargate_sdk::types::ecs::DesiredStatus;
use neargate_sdk::{Client, TaskArn};

use super::hint::Hinted;
use super::show::last_part;

/// Fewer digits would hit the wrong task too easily.
const PREFIX_LEN_MIN: usize = 6;

/// A task's id has 32 hexadecimal digits.
const ID_LEN: usize = 32;

/// How many candidates an error lists.
const CANDIDATES_MAX: usize = 5;

/// The ARN of the task that `text` means, searched in all clusters: among the running tasks, then among the stopped.
pub(crate) async fn find(client: &Client, text: &str) -> Result<String> {
    if text.starts_with("arn:") {
        TaskArn::parse(text)?;
        return Ok(text.to_owned());
    }
    let prefix = prefix(text)?;
    let clusters = client.list_all_clusters().await?;
    for status in [DesiredStatus::Running, DesiredStatus::Stopped] {
        let mut arns = Vec::new();
        for cluster in &clusters {
            arns.extend(client.list_all_tasks(cluster, status.clone()).await?);
        }
        if let Some(arn) = pick(&prefix, &arns)? {
            return Ok(arn.to_owned());
        }
    }
    Err(Hinted::not_found(format!("find task {prefix}"), "`neargate ps --all` lists the tasks").into())
}

/// The beginning of an id, in lower case.
fn prefix(text: &str) -> Result<String, Hinted> {
    let is_hex = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex || text.len() > ID_LEN {
        let message = format!("read '{:.64}' as a task", text.escape_debug().to_string());
        return Err(Hinted::refused(message, "give the task's ARN, its id, or the beginning of its id"));
    }
    if text.len() < PREFIX_LEN_MIN {
        let message = format!("read '{text}' as a task: it is too short");
        return Err(Hinted::refused(
            message,
            format!("give at least {PREFIX_LEN_MIN} digits of the task's id"),
        ));
    }
    Ok(text.to_ascii_lowercase())
}

/// The only task whose id starts with the prefix; an error when there are several.
fn pick<'a>(prefix: &str, arns: &'a [String]) -> Result<Option<&'a str>, Hinted> {
    let found: Vec<&str> =
        arns.iter().map(String::as_str).filter(|arn| last_part(arn).starts_with(prefix)).collect();
    match found[..] {
        [] => Ok(None),
        [arn] => Ok(Some(arn)),
        _ => {
            let ids: Vec<_> = found.iter().take(CANDIDATES_MAX).map(|arn| last_part(arn)).collect();
            let more = if found.len() > CANDIDATES_MAX { ", …" } else { "" };
            let message = format!("read '{prefix}' as one task: {} begin with it", found.len());
            Err(Hinted::refused(message, format!("give more digits of one of {}{more}", ids.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arns(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| format!("arn:aws:ecs:us-east-1:123456789012:task/c/{id}")).collect()
    }

    #[test]
    fn prefixes_are_six_to_thirty_two_digits() {
        let check = |text: &str, expect: Result<&str, &str>| match (prefix(text), expect) {
            (Ok(found), Ok(expect)) => assert_eq!(found, expect),
            (Err(error), Err(expect)) => assert!(error.message.contains(expect), "{error}"),
            (found, _) => panic!("{text}: {found:?}"),
        };
        check("0123aB", Ok("0123ab"));
        check(&"a".repeat(32), Ok(&"a".repeat(32)));
        check(&"a".repeat(33), Err("as a task"));
        check("0123a", Err("too short"));
        check("", Err("read '' as a task"));
        check("web\u{7}", Err("read 'web\\u{7}' as a task"));
    }

    #[test]
    fn a_prefix_means_a_task_only_if_it_is_unique() {
        let known = arns(&["aaaaaa11", "aaaaaa22", "bbbbbb11"]);
        assert_eq!(pick("bbbbbb", &known).unwrap(), Some(known[2].as_str()));
        assert_eq!(pick("aaaaaa2", &known).unwrap(), Some(known[1].as_str()));
        assert_eq!(pick("cccccc", &known).unwrap(), None);
        let error = pick("aaaaaa", &known).unwrap_err();
        assert!(error.message.contains("2 begin with it"), "{error}");
        assert!(error.hint.contains("aaaaaa11, aaaaaa22"), "{}", error.hint);
        let many = arns(&["abcdef0", "abcdef1", "abcdef2", "abcdef3", "abcdef4", "abcdef5"]);
        assert!(pick("abcdef", &many).unwrap_err().hint.ends_with("abcdef4, …"));
    }
}

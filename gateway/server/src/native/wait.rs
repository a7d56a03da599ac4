//! `GET /v1/tasks/{id}?wait=stopped&timeout=20`: a task once it has got as far, or as it stands when the time is over.
//!
//! ECS has nothing like it: its SDKs ask again every few seconds. One question here takes the place of all of those, and
//! is answered the moment that the change is durable.

use std::time::Duration;

use neargate_control::{DescribedTask, TaskWait};
use neargate_model::TaskKey;

use super::tasks::{not_described, parameter};
use super::{Native, Problem};

/// How long is waited, in seconds, if the request does not say.
const TIMEOUT_S: u64 = 20;

/// The longest wait, in seconds: proxies often give up an exchange that is silent for longer.
const TIMEOUT_S_MAX: u64 = 60;

/// What is waited for, and how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Wait {
    until: TaskWait,
    timeout: Duration,
}

impl Wait {
    /// Reads it from a query; `None` if nothing is waited for.
    pub(super) fn read(query: Option<&str>) -> Result<Option<Self>, Problem> {
        let until = match parameter(query, "wait") {
            None => return Ok(None),
            Some("running") => TaskWait::Running,
            Some("stopped") => TaskWait::Stopped,
            Some(other) => {
                let detail = format!("read wait: {other:.32} is neither running nor stopped");
                return Err(Problem::bad_request(detail));
            }
        };
        let timeout = match parameter(query, "timeout") {
            None => Some(TIMEOUT_S),
            Some(text) => text.parse().ok().filter(|seconds| (1..=TIMEOUT_S_MAX).contains(seconds)),
        };
        let invalid = || Problem::bad_request(format!("read timeout: say 1 to {TIMEOUT_S_MAX} seconds"));
        Ok(Some(Self { until, timeout: Duration::from_secs(timeout.ok_or_else(invalid)?) }))
    }
}

impl Native {
    /// A task, after what is waited for.
    pub(super) async fn task_after(
        &self,
        key: &TaskKey,
        wait: Option<Wait>,
    ) -> Result<DescribedTask, Problem> {
        let Some(Wait { until, timeout }) = wait else { return self.task(key).await };
        let waited = self.control.wait_task(key, until, timeout);
        match self.end.run_until_cancelled(waited).await {
            Some(waited) => waited.map_err(not_described),
            None => self.task(key).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_read() {
        let check = |query: Option<&str>, expect: Result<Option<(TaskWait, u64)>, ()>| {
            let read = Wait::read(query).map_err(drop);
            let read = read.map(|wait| wait.map(|wait| (wait.until, wait.timeout.as_secs())));
            assert_eq!(read, expect, "{query:?}");
        };
        check(None, Ok(None));
        check(Some("cluster=a&timeout=5"), Ok(None));
        check(Some("wait=stopped"), Ok(Some((TaskWait::Stopped, TIMEOUT_S))));
        check(Some("cluster=a&wait=running&timeout=60"), Ok(Some((TaskWait::Running, 60))));
        for wrong in [
            "wait=",
            "wait=gone",
            "wait=stopped&timeout=0",
            "wait=stopped&timeout=61",
            "wait=stopped&timeout=x",
        ] {
            check(Some(wrong), Err(()));
        }
    }
}

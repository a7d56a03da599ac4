//! Tasks from beginning to end: submit, wait, stop.

use std::collections::BTreeMap;
use std::time::Duration;

use neargate_wire::ecs;
use tokio::time::Instant;

use crate::arn::TaskArn;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::Error;

/// The first and the longest pause between two looks at a task: a Wasm task ends within milliseconds, and who waits
/// for hours should not ask more than once a second.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// A task to be run, made from a task definition with changes.
#[derive(Clone, Debug)]
pub struct TaskRequest {
    input: ecs::RunTaskRequest,
}

impl TaskRequest {
    /// A task of `definition`: a family, `family:revision` or an ARN.
    pub fn new(definition: impl Into<String>) -> Self {
        Self { input: ecs::RunTaskRequest { task_definition: definition.into(), ..Default::default() } }
    }

    /// Runs it in this cluster; `default` otherwise.
    pub fn cluster(mut self, cluster: impl Into<String>) -> Self {
        self.input.cluster = Some(cluster.into());
        self
    }

    /// Replaces the command of a container.
    pub fn command<S: Into<String>>(mut self, container: &str, words: impl IntoIterator<Item = S>) -> Self {
        self.container(container).command = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Sets a variable in the environment of a container.
    pub fn env(mut self, container: &str, name: impl Into<String>, value: impl Into<String>) -> Self {
        let pair = ecs::KeyValuePair { name: Some(name.into()), value: Some(value.into()) };
        self.container(container).environment.get_or_insert_default().push(pair);
        self
    }

    /// Replaces the task's CPU, in units of 1/1024 of a core.
    pub fn cpu_units(mut self, units: u32) -> Self {
        self.overrides().cpu = Some(units.to_string());
        self
    }

    /// Replaces the task's memory, in MiB.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.overrides().memory = Some(mib.to_string());
        self
    }

    /// Chooses a launch type, for definitions that demand one.
    pub fn launch_type(mut self, launch_type: ecs::LaunchType) -> Self {
        self.input.launch_type = Some(launch_type);
        self
    }

    /// Names subnets and security groups, which definitions of the network mode `awsvpc` demand.
    pub fn network<S: Into<String>>(
        mut self,
        subnets: impl IntoIterator<Item = S>,
        security_groups: impl IntoIterator<Item = S>,
    ) -> Self {
        let texts = |texts: Vec<S>| texts.into_iter().map(Into::into).collect();
        let vpc = ecs::AwsVpcConfiguration {
            subnets: texts(subnets.into_iter().collect()),
            security_groups: Some(texts(security_groups.into_iter().collect())),
            ..Default::default()
        };
        self.input.network_configuration =
            Some(ecs::NetworkConfiguration { awsvpc_configuration: Some(vpc) });
        self
    }

    /// Labels the task.
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let tag = ecs::Tag { key: Some(key.into()), value: Some(value.into()) };
        self.input.tags.get_or_insert_default().push(tag);
        self
    }

    /// Notes who started it; tasks can be listed by it. At most 128 characters.
    pub fn started_by(mut self, who: impl Into<String>) -> Self {
        self.input.started_by = Some(who.into());
        self
    }

    /// Makes a second submission with the same token return the first one's task, also from another process. At most
    /// 64 characters; a random one otherwise.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.input.client_token = Some(token.into());
        self
    }

    fn overrides(&mut self) -> &mut ecs::TaskOverride {
        self.input.overrides.get_or_insert_default()
    }

    fn container(&mut self, name: &str) -> &mut ecs::ContainerOverride {
        let containers = self.overrides().container_overrides.get_or_insert_default();
        let index = containers.iter().position(|container| container.name.as_deref() == Some(name));
        let index = index.unwrap_or_else(|| {
            containers.push(ecs::ContainerOverride { name: Some(name.to_owned()), ..Default::default() });
            containers.len() - 1
        });
        &mut containers[index]
    }
}

impl From<TaskRequest> for ecs::RunTaskRequest {
    fn from(request: TaskRequest) -> Self {
        request.input
    }
}

/// A task that the server has accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct SubmittedTask {
    /// Its ARN, which [`Client::wait`], [`Client::logs`] and [`Client::stop`] take.
    pub arn: String,
    /// The task as RunTask described it.
    pub task: ecs::Task,
}

/// A task that has stopped.
#[derive(Clone, Debug, PartialEq)]
pub struct FinishedTask {
    /// Its ARN.
    pub arn: String,
    /// The exit code of each container by its name; `None` for one that never ran.
    pub exit_codes: BTreeMap<String, Option<i32>>,
    /// Why it stopped, in one word.
    pub stop_code: Option<ecs::TaskStopCode>,
    /// Why it stopped, for people.
    pub stopped_reason: Option<String>,
    /// All that is known of it.
    pub task: ecs::Task,
}

impl FinishedTask {
    fn new(arn: &str, task: ecs::Task) -> Self {
        let containers = task.containers.iter().flatten();
        Self {
            arn: arn.to_owned(),
            exit_codes: containers
                .map(|container| (container.name.clone().unwrap_or_default(), container.exit_code))
                .collect(),
            stop_code: task.stop_code.clone(),
            stopped_reason: task.stopped_reason.clone(),
            task,
        }
    }

    /// The exit code of a container; `None` if it never ran or does not exist.
    pub fn exit_code(&self, container: &str) -> Option<i32> {
        self.exit_codes.get(container).copied().flatten()
    }
}

/// Whether nothing will happen to the task any more.
pub(crate) fn is_stopped(task: &ecs::Task) -> bool {
    matches!(task.last_status.as_deref(), Some("STOPPED" | "DELETED"))
}

impl Client {
    /// Submits one task, and returns when the server has accepted it, which is before it runs.
    pub async fn submit(&self, request: TaskRequest) -> Result<SubmittedTask, Error> {
        let answer = self.ecs().run_task(request.into()).await?;
        let task = answer.tasks.into_iter().flatten().next();
        match task.and_then(|task| Some((task.task_arn.clone()?, task))) {
            Some((arn, task)) => Ok(SubmittedTask { arn, task }),
            None => Err(Error::NotPlaced { failures: answer.failures.unwrap_or_default() }),
        }
    }

    /// Describes one task.
    pub async fn task(&self, arn: &str) -> Result<ecs::Task, Error> {
        let parts = TaskArn::parse(arn)?;
        let input = ecs::DescribeTasksRequest {
            cluster: Some(parts.cluster.to_owned()),
            tasks: vec![arn.to_owned()],
            include: Some(vec![ecs::TaskField::Tags]),
        };
        let answer = self.ecs().in_region(parts.region).describe_tasks(input).await?;
        let task = answer.tasks.into_iter().flatten().next();
        task.ok_or_else(|| Error::TaskNotFound { arn: arn.to_owned() })
    }

    /// Waits until a task has stopped, for at most `timeout`; the task goes on when that is over.
    ///
    /// The server answers the moment the task has stopped. One that refuses that, as to the credentials of a task's
    /// role, is asked again and again.
    pub async fn wait(&self, arn: &str, timeout: Duration) -> Result<FinishedTask, Error> {
        let started = Instant::now();
        let mut pauses = Backoff::new(LOOK.0, LOOK.1);
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            if !self.wait_at_server(arn, left).await {
                tokio::time::sleep(pauses.next().min(left)).await;
            }
            let task = self.task(arn).await?;
            if is_stopped(&task) {
                return Ok(FinishedTask::new(arn, task));
            }
            if started.elapsed() >= timeout {
                let last_status = task.last_status.unwrap_or_default();
                return Err(Error::StillRunning {
                    arn: arn.to_owned(),
                    last_status,
                    waited: started.elapsed(),
                });
            }
        }
    }

    /// Asks a task to stop, and returns at once; stopping a stopped task does nothing.
    pub async fn stop(&self, arn: &str, reason: &str) -> Result<(), Error> {
        let parts = TaskArn::parse(arn)?;
        let input = ecs::StopTaskRequest {
            cluster: Some(parts.cluster.to_owned()),
            task: arn.to_owned(),
            reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
        };
        self.ecs().in_region(parts.region).stop_task(input).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_one_container_are_one_override() {
        let request = TaskRequest::new("web:3")
            .env("app", "A", "1")
            .command("side", ["sleep", "1"])
            .env("app", "B", "2")
            .memory_mib(64);
        let overrides = ecs::RunTaskRequest::from(request).overrides.unwrap();
        let containers = overrides.container_overrides.unwrap();
        let names: Vec<_> = containers.iter().map(|container| container.name.as_deref()).collect();
        assert_eq!(names, [Some("app"), Some("side")]);
        let app: Vec<_> =
            containers[0].environment.iter().flatten().map(|pair| pair.name.as_deref()).collect();
        assert_eq!(app, [Some("A"), Some("B")]);
        assert_eq!(containers[1].command.as_deref(), Some(&["sleep".to_owned(), "1".to_owned()][..]));
        assert_eq!(overrides.memory.as_deref(), Some("64"));
    }
}

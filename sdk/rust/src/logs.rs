//! What a task writes: all its containers' output in one stream.
//!
//! ```text
//!            ┌──────────────► read a page of every container ──── something new ──► give it out ─┐
//!  describe ─┤                              ▲  │ nothing new                                     │
//!            └─ stopped before that read?   │  ├─ stopped, or not following ──► end              │
//!                                           │  └─ pause, describe ──┐                            │
//!                                           └───────────────────────┴────────────────────────────┘
//! ```
//!
//! The server writes down all output before it says that a task has stopped. So what is read after the task was seen
//! stopped is all there is.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use neargate_wire::{ecs, logs};

use crate::arn::TaskArn;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::Error;
use crate::task::is_stopped;

/// The first and the longest pause between two looks for new output.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A line that a container has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEvent {
    /// The container's name.
    pub container: String,
    /// When the line was written, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The line, without its line feed.
    pub message: String,
}

/// The output of a task; [`TaskLogs::read`] or [`TaskLogs::follow`] starts reading.
#[derive(Clone, Debug)]
pub struct TaskLogs {
    client: Client,
    arn: String,
    container: Option<String>,
}

impl Client {
    /// The output of a task, from its beginning.
    pub fn logs(&self, arn: impl Into<String>) -> TaskLogs {
        TaskLogs { client: self.clone(), arn: arn.into(), container: None }
    }
}

impl TaskLogs {
    /// Reads one container's output only.
    pub fn container(mut self, name: impl Into<String>) -> Self {
        self.container = Some(name.into());
        self
    }

    /// Reads what there is, and ends. Lines of one container are in order; those of several are ordered by time within
    /// each page.
    pub fn read(self) -> BoxStream<'static, Result<LogEvent, Error>> {
        self.stream(false)
    }

    /// Reads what there is and what comes, and ends when the task has stopped and all is read. Ordered as
    /// [`TaskLogs::read`].
    pub fn follow(self) -> BoxStream<'static, Result<LogEvent, Error>> {
        self.stream(true)
    }

    fn stream(self, follow: bool) -> BoxStream<'static, Result<LogEvent, Error>> {
        let start = State::Start(self, follow);
        Box::pin(stream::try_unfold(start, |state| async {
            let mut reader = match state {
                State::Start(logs, follow) => Reader::open(logs, follow).await?,
                State::Reading(reader) => reader,
            };
            Ok(reader.next().await?.map(|event| (event, State::Reading(reader))))
        }))
    }
}

enum State {
    Start(TaskLogs, bool),
    Reading(Reader),
}

struct Reader {
    client: Client,
    arn: String,
    cursors: Vec<Cursor>,
    ready: VecDeque<LogEvent>,
    follow: bool,
    is_stopped: bool,
    pauses: Backoff,
}

/// How far one container's log stream has been read.
struct Cursor {
    container: String,
    group: String,
    stream: String,
    region: String,
    token: Option<String>,
}

impl Reader {
    async fn open(logs: TaskLogs, follow: bool) -> Result<Self, Error> {
        let TaskLogs { client, arn, container } = logs;
        let task = client.task(&arn).await?;
        let parts = TaskArn::parse(&arn)?;
        let input = ecs::DescribeTaskDefinitionRequest {
            task_definition: task.task_definition_arn.clone().unwrap_or_default(),
            include: None,
        };
        let definition = client.ecs().in_region(parts.region).describe_task_definition(input).await?;
        let definition = definition.task_definition.unwrap_or_default();
        let mut cursors = cursors(&definition, &parts);
        cursors.retain(|cursor| container.as_ref().is_none_or(|name| *name == cursor.container));
        let is_stopped = is_stopped(&task);
        let pauses = Backoff::new(LOOK.0, LOOK.1);
        Ok(Self { client, arn, cursors, ready: VecDeque::new(), follow, is_stopped, pauses })
    }

    async fn next(&mut self) -> Result<Option<LogEvent>, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.read_round().await? {
                self.pauses.reset();
                continue;
            }
            if self.is_stopped || !self.follow {
                return Ok(None);
            }
            tokio::time::sleep(self.pauses.next()).await;
            self.is_stopped = match self.client.task(&self.arn).await {
                Ok(task) => is_stopped(&task),
                // It was stopped so long ago that the server has forgotten it; its output is still there.
                Err(Error::TaskNotFound { .. }) => true,
                Err(error) => return Err(error),
            };
        }
    }

    /// Reads a page of each stream; says whether there was anything.
    async fn read_round(&mut self) -> Result<bool, Error> {
        let mut events = Vec::new();
        for cursor in &mut self.cursors {
            events.extend(cursor.read_page(&self.client).await?);
        }
        events.sort_by_key(|event| event.timestamp_ms);
        self.ready.extend(events);
        Ok(!self.ready.is_empty())
    }
}

impl Cursor {
    async fn read_page(&mut self, client: &Client) -> Result<Vec<LogEvent>, Error> {
        let input = logs::GetLogEventsRequest {
            log_group_name: Some(self.group.clone()),
            log_stream_name: self.stream.clone(),
            next_token: self.token.clone(),
            start_from_head: Some(true),
            ..Default::default()
        };
        let page = match client.cloudwatch_logs().in_region(&self.region).get_log_events(input).await {
            Ok(page) => page,
            // The stream is made with the container's first start.
            Err(error) if error.code() == Some("ResourceNotFoundException") => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        self.token = page.next_forward_token.or(self.token.take());
        let event = |event: logs::OutputLogEvent| LogEvent {
            container: self.container.clone(),
            timestamp_ms: event.timestamp.unwrap_or_default(),
            message: event.message.unwrap_or_default(),
        };
        Ok(page.events.into_iter().flatten().map(event).collect())
    }
}

/// Where each container's output is: where the `awslogs` options say, else where Neargate puts it. The stream's name is
/// `prefix/container/task-id`, as in the ECS Developer Guide, "Send Amazon ECS logs to CloudWatch".
fn cursors(definition: &ecs::TaskDefinition, task: &TaskArn<'_>) -> Vec<Cursor> {
    let family = definition.family.as_deref().unwrap_or_default();
    let cursor = |container: &ecs::ContainerDefinition| {
        let name = container.name.clone().unwrap_or_default();
        let log =
            container.log_configuration.as_ref().filter(|log| log.log_driver == ecs::LogDriver::Awslogs);
        let option = |key: &str| {
            let value = log.and_then(|log| log.options.as_ref()).and_then(|options| options.get(key));
            value.filter(|value| !value.is_empty()).cloned()
        };
        let prefix = option("awslogs-stream-prefix").unwrap_or_else(|| family.to_owned());
        Cursor {
            group: option("awslogs-group").unwrap_or_else(|| format!("/neargate/{}", task.cluster)),
            stream: format!("{prefix}/{name}/{}", task.id),
            region: option("awslogs-region").unwrap_or_else(|| task.region.to_owned()),
            container: name,
            token: None,
        }
    };
    definition.container_definitions.iter().flatten().map(cursor).collect()
}

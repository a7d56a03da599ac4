//! `POST /v1/tasks/{id}/exec`: runs a command in a running container.
//!
//! The request is JSON and asks for an upgrade to [`PROTOCOL`]:
//!
//! ```text
//! {"command": ["sh"], "container": "main", "user": "web", "environment": {"A": "1"},
//!  "stdin": true, "terminal": {"rows": 24, "columns": 80}}
//! ```
//!
//! Only `command` is needed, and `container` where there are several. A refusal is a problem document; where the
//! command was found wanting it has the member `exit_code`, 126 or 127 as a shell would say. After 101 the
//! connection carries frames ([`neargate_wire::session`]).

use async_trait::async_trait;
use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use neargate_control::DescribedTask;
use neargate_model::{Command, ContainerId, ContainerLast, LastStatus, TaskKey, Window};
use neargate_wire::session::PROTOCOL;
use serde_json::Value;

use super::{Native, Problem, session};
use crate::body::Body;

/// Most arguments, and most variables, of a command.
const WORDS_MAX: usize = 1024;

/// Most bytes in the arguments and variables of a command; the kernel's own limit is not far above.
const WORDS_BYTES_MAX: usize = 128 << 10;

/// Starts commands in containers; on the machine that runs them.
#[async_trait]
pub trait Commands: Send + Sync + 'static {
    /// Starts a command and returns when it runs. Dropping what is returned ends the command.
    async fn start(
        &self,
        container: &ContainerId,
        command: Command,
    ) -> Result<Box<dyn RunningCommand>, CommandError>;
}

/// A command that somebody attends.
#[async_trait]
pub trait RunningCommand: Send + Sync {
    /// Reads what it writes; 0 at the end.
    async fn read(&self, output: CommandOutput, buffer: &mut [u8]) -> std::io::Result<usize>;

    /// Writes to its standard input, and returns when all was taken.
    async fn write(&self, bytes: &[u8]) -> std::io::Result<()>;

    /// Ends its standard input.
    async fn end_input(&self);

    /// Delivers a signal. One that is none, or comes too late, is dropped.
    async fn signal(&self, number: u8);

    /// Changes the size of its terminal, if it has one.
    fn resize(&self, window: Window);

    /// Waits for its end: the exit code, and more about an abnormal end.
    async fn wait(&self) -> (Option<i32>, Option<String>);
}

/// Which output of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandOutput {
    /// Standard output, or all of a terminal's.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Why a command was not started.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The container does not run.
    #[error("the container is not running: it has not started yet, or it has stopped")]
    NotRunning,
    /// The container is of a kind in which nothing else can be run.
    #[error("{0}")]
    Unsupported(String),
    /// Too many are attended already.
    #[error("{0}")]
    TooMany(String),
    /// The program does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The program, or its user, cannot be used.
    #[error("{0}")]
    NotExecutable(String),
    /// The server failed.
    #[error("{0}")]
    Failed(String),
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        let (status, exit_code) = match &error {
            CommandError::NotRunning => (StatusCode::CONFLICT, None),
            CommandError::Unsupported(_) => (StatusCode::BAD_REQUEST, None),
            CommandError::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, None),
            CommandError::NotFound(_) => (StatusCode::UNPROCESSABLE_ENTITY, Some(127)),
            CommandError::NotExecutable(_) => (StatusCode::UNPROCESSABLE_ENTITY, Some(126)),
            CommandError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, None),
        };
        Problem { exit_code, ..Problem::new(status, error.to_string()) }
    }
}

impl Native {
    /// Starts the command and hands the connection over to it.
    pub(super) async fn exec(
        &self,
        key: &TaskKey,
        head: &Parts,
        body: &[u8],
    ) -> Result<Response<Body>, Problem> {
        let upgrade = upgrade(head)?;
        let request: Value =
            serde_json::from_slice(body).map_err(|_| Problem::bad_request("the body is not JSON"))?;
        let command = read_command(&request)?;
        let name = optional_text(&request, "container")?;
        let container = choose(&self.task(key).await?, name)?;
        let running = self.commands.start(&container, command).await?;
        // What is run is not told: arguments may hold secrets.
        tracing::info!(task = %key.id, %container, "a command is run in a container");
        // It ends with the connection or the command.
        tokio::spawn(session::attend(upgrade, running));
        let mut response = Response::new(Body::from(bytes::Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
        Ok(response)
    }
}

fn upgrade(head: &Parts) -> Result<OnUpgrade, Problem> {
    let asked = head.headers.get(UPGRADE).is_some_and(|value| value.as_bytes() == PROTOCOL.as_bytes());
    let upgrade = head.extensions.get::<OnUpgrade>().filter(|_| asked && head.version == Version::HTTP_11);
    let detail = || format!("ask for it by HTTP/1.1 with Connection: upgrade and Upgrade: {PROTOCOL}");
    upgrade.cloned().ok_or_else(|| Problem::new(StatusCode::UPGRADE_REQUIRED, detail()))
}

fn optional_text<'a>(request: &'a Value, name: &str) -> Result<Option<&'a str>, Problem> {
    match request.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Problem::bad_request(format!("{name} is not a text"))),
    }
}

fn read_command(request: &Value) -> Result<Command, Problem> {
    const MEMBERS: [&str; 6] = ["command", "container", "user", "environment", "stdin", "terminal"];
    let object = request.as_object().ok_or_else(|| Problem::bad_request("the body is not a JSON object"))?;
    if let Some(name) = object.keys().find(|name| !MEMBERS.contains(&name.as_str())) {
        return Err(Problem::bad_request(format!("there is no member {name:.64}")));
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let invalid = || Problem::bad_request("command is not a list of texts with a program at its start");
    let argv = request.get("command").and_then(Value::as_array).ok_or_else(invalid)?;
    let argv: Vec<String> = argv.iter().map(text).collect::<Option<_>>().ok_or_else(invalid)?;
    if argv.first().is_none_or(String::is_empty) {
        return Err(invalid());
    }
    let invalid = || Problem::bad_request("environment is not an object of texts");
    let env: Vec<(String, String)> = match request.get("environment") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(variables)) => {
            let variable = |(name, value): (&String, &Value)| Some((name.clone(), text(value)?));
            variables.iter().map(variable).collect::<Option<_>>().ok_or_else(invalid)?
        }
        Some(_) => return Err(invalid()),
    };
    let words = || argv.iter().chain(env.iter().flat_map(|(name, value)| [name, value]));
    if argv.len().max(env.len()) > WORDS_MAX || words().map(String::len).sum::<usize>() > WORDS_BYTES_MAX {
        let detail = format!(
            "a command may have {WORDS_MAX} arguments, {WORDS_MAX} variables, and {WORDS_BYTES_MAX} bytes in them"
        );
        return Err(Problem::bad_request(detail));
    }
    if words().any(|word| word.contains('\0')) {
        return Err(Problem::bad_request("an argument or a variable contains a NUL character"));
    }
    if let Some((name, _)) = env.iter().find(|(name, _)| name.is_empty() || name.contains('=')) {
        return Err(Problem::bad_request(format!("{name:.64?} is not the name of a variable")));
    }
    let stdin = match request.get("stdin") {
        None | Some(Value::Null) => false,
        Some(value) => value.as_bool().ok_or_else(|| Problem::bad_request("stdin is not true or false"))?,
    };
    let user = optional_text(request, "user")?.map(str::to_owned);
    Ok(Command { argv, env, user, stdin, window: read_window(request)? })
}

fn read_window(request: &Value) -> Result<Option<Window>, Problem> {
    let Some(terminal) = request.get("terminal").filter(|terminal| !terminal.is_null()) else {
        return Ok(None);
    };
    let number = |name: &str| terminal.get(name).and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok());
    match (number("rows"), number("columns")) {
        (Some(rows), Some(columns)) => Ok(Some(Window { rows, columns })),
        _ => Err(Problem::bad_request("terminal is not {\"rows\": 24, \"columns\": 80} or the like")),
    }
}

/// The container that is meant: the one of this name, or the only one.
fn choose(described: &DescribedTask, name: Option<&str>) -> Result<ContainerId, Problem> {
    let DescribedTask { task, spec } = described;
    let containers = &spec.shape.containers;
    let names = || containers.iter().map(|container| container.name.as_str()).collect::<Vec<_>>().join(", ");
    let index = match name {
        Some(name) => {
            containers.iter().position(|container| container.name.as_str() == name).ok_or_else(|| {
                Problem::not_found(format!("the task has no container {name:.64}; it has {}", names()))
            })?
        }
        None if containers.len() == 1 => 0,
        None => {
            let detail = format!("the task has several containers; name one of {}", names());
            return Err(Problem::bad_request(detail));
        }
    };
    let conflict = |detail: String| Err(Problem::new(StatusCode::CONFLICT, detail));
    if task.status.last == LastStatus::Stopped {
        return conflict(format!("task {} has stopped", task.id));
    }
    let (definition, status) = (&containers[index], task.status.containers.get(index));
    match status.map(|status| status.last) {
        Some(ContainerLast::Running) => {}
        Some(ContainerLast::Stopped) => {
            return conflict(format!("container {} has stopped", definition.name.as_str()));
        }
        _ => return conflict(format!("container {} does not run yet", definition.name.as_str())),
    }
    spec.container_ids.get(index).cloned().ok_or_else(|| Problem::ours("the container has no id"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn commands_are_read() {
        let full = json!({
            "command": ["sh", "-c", ""], "container": "main", "user": "web:1", "environment": {"A": "b=c"},
            "stdin": true, "terminal": {"rows": 24, "columns": 80},
        });
        let command = Command {
            argv: ["sh", "-c", ""].map(str::to_owned).to_vec(),
            env: vec![("A".to_owned(), "b=c".to_owned())],
            user: Some("web:1".to_owned()),
            stdin: true,
            window: Some(Window { rows: 24, columns: 80 }),
        };
        assert_eq!(read_command(&full), Ok(command));
        let bare = read_command(&json!({"command": ["true"]})).unwrap();
        assert_eq!((bare.stdin, bare.window, bare.user, bare.env), (false, None, None, vec![]));
    }

    #[test]
    fn what_is_no_command_is_refused() {
        let check = |request: Value, mentions: &str| {
            let problem = read_command(&request).unwrap_err();
            assert_eq!(problem.status, StatusCode::BAD_REQUEST);
            assert!(problem.detail.contains(mentions), "{request}: {}", problem.detail);
        };
        check(json!([]), "object");
        check(json!({}), "command");
        check(json!({"command": []}), "program");
        check(json!({"command": [""]}), "program");
        check(json!({"command": "true"}), "list");
        check(json!({"command": ["a\u{0}"]}), "NUL");
        check(json!({"command": ["a"], "environment": {"A=B": "c"}}), "A=B");
        check(json!({"command": ["a"], "environment": {"A": 1}}), "environment");
        check(json!({"command": ["a"], "stdin": "yes"}), "stdin");
        check(json!({"command": ["a"], "terminal": {"rows": 70_000, "columns": 1}}), "terminal");
        check(json!({"command": ["a"], "privileged": true}), "privileged");
        check(json!({"command": vec!["a"; WORDS_MAX + 1]}), "1024");
        check(json!({"command": ["a".repeat(WORDS_BYTES_MAX + 1)]}), "bytes");
    }
}

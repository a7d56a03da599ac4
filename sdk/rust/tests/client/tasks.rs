//! The life of a task: submit, wait, stop, logs, and lists of several pages.

use std::time::Duration;

use futures_util::TryStreamExt;
use neargate_sdk::types::ecs::DesiredStatus;
use neargate_sdk::{Error, TaskRequest};
use serde_json::{Value, json};

use crate::server::{ACCOUNT_ARN, Call, Reply, Server};

fn arn() -> String {
    format!("{ACCOUNT_ARN}:task/c/0123456789abcdef0123456789abcdef")
}

fn described(status: &str, containers: &Value) -> Reply {
    let definition = format!("{ACCOUNT_ARN}:task-definition/web:3");
    let task = json!({
        "taskArn": arn(), "lastStatus": status, "taskDefinitionArn": definition, "containers": containers,
        "stopCode": "EssentialContainerExited", "stoppedReason": "Essential container in task exited",
    });
    Reply::Json(200, json!({"tasks": [task], "failures": []}))
}

#[tokio::test]
async fn a_repeated_submission_keeps_its_token() {
    let mut replies = [Reply::Hangup, Reply::Json(500, json!({"__type": "ServerException"}))].into_iter();
    let accepted = json!({"tasks": [{"taskArn": arn(), "lastStatus": "PROVISIONING"}], "failures": []});
    let server = Server::start(move |_| replies.next().unwrap_or(Reply::Json(200, accepted.clone()))).await;
    let client = server.client();
    let request = || TaskRequest::new("web").cluster("c").command("app", ["true"]);
    assert_eq!(client.submit(request()).await.unwrap().arn, arn());
    client.submit(request()).await.unwrap();
    client.submit(request().token("mine")).await.unwrap();
    let tokens: Vec<_> =
        server.calls().iter().map(|call| call.input["clientToken"].as_str().unwrap().to_owned()).collect();
    assert_eq!(tokens.len(), 5);
    assert!(tokens[0].len() == 32 && tokens[1] == tokens[0] && tokens[2] == tokens[0], "{tokens:?}");
    assert!(tokens[3] != tokens[0] && tokens[4] == "mine", "{tokens:?}");
    let overrides = json!({"containerOverrides": [{"name": "app", "command": ["true"]}]});
    assert_eq!(server.calls()[0].input["overrides"], overrides);
}

#[tokio::test]
async fn a_task_that_is_not_taken_is_an_error() {
    let body = json!({"tasks": [], "failures": [{"arn": "a", "reason": "RESOURCE:MEMORY"}]});
    let server = Server::start(move |_| Reply::Json(200, body.clone())).await;
    let error = server.client().submit(TaskRequest::new("web")).await.unwrap_err();
    assert_eq!(error.to_string(), "place task: RESOURCE:MEMORY");
}

#[tokio::test]
async fn the_server_is_had_to_wait() {
    let mut waits = 0;
    let server = Server::start(move |call| match call.operation.as_str() {
        "DescribeTasks" if waits == 2 => described("STOPPED", &json!([{"name": "app", "exitCode": 0}])),
        "DescribeTasks" => described("RUNNING", &json!([{"name": "app"}])),
        _ => {
            waits += 1;
            Reply::Json(200, json!({"status": "RUNNING"}))
        }
    })
    .await;
    let finished = server.client().wait(&arn(), Duration::from_secs(600)).await.unwrap();
    assert_eq!(finished.exit_code("app"), Some(0));
    let wait = "GET /v1/tasks/0123456789abcdef0123456789abcdef?cluster=c&timeout=15&wait=stopped";
    assert_eq!(server.operations(), [wait, "DescribeTasks", wait, "DescribeTasks"]);
}

#[tokio::test]
async fn waiting_ends_when_the_task_has() {
    let mut looks = 0;
    let server = Server::start(move |call| {
        if call.operation.starts_with("GET ") {
            return Reply::Json(403, json!({"detail": "credentials of roles are for AWS services"}));
        }
        looks += 1;
        assert_eq!((call.operation.as_str(), &call.input["cluster"]), ("DescribeTasks", &json!("c")));
        match looks {
            1 => described("PROVISIONING", &json!([])),
            2 => described("RUNNING", &json!([{"name": "app"}])),
            _ => described("STOPPED", &json!([{"name": "app", "exitCode": 3}, {"name": "side"}])),
        }
    })
    .await;
    let finished = server.client().wait(&arn(), Duration::from_secs(60)).await.unwrap();
    let looks = server.operations().into_iter().filter(|operation| operation == "DescribeTasks");
    assert_eq!(looks.count(), 3);
    assert_eq!((finished.exit_code("app"), finished.exit_code("side")), (Some(3), None));
    assert_eq!(finished.exit_codes.len(), 2);
    assert_eq!(finished.stop_code.map(|code| code.to_string()).as_deref(), Some("EssentialContainerExited"));
    assert_eq!(finished.stopped_reason.as_deref(), Some("Essential container in task exited"));
}

#[tokio::test]
async fn waiting_has_a_bound_and_needs_a_task() {
    let server = Server::start(|call| match call.input["tasks"][0].as_str() {
        Some(text) if text.ends_with("/0123456789abcdef0123456789abcdef") => described("RUNNING", &json!([])),
        _ => Reply::Json(200, json!({"tasks": [], "failures": [{"reason": "MISSING"}]})),
    })
    .await;
    let client = server.client();
    let error = client.wait(&arn(), Duration::from_millis(20)).await.unwrap_err();
    assert!(
        matches!(&error, Error::StillRunning { last_status, .. } if last_status == "RUNNING"),
        "{error:?}"
    );
    let unknown = format!("{ACCOUNT_ARN}:task/c/ff");
    let error = client.wait(&unknown, Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, Error::TaskNotFound { arn } if arn == unknown));
    assert!(matches!(client.wait("ff", Duration::ZERO).await, Err(Error::NotATask { .. })));
}

#[tokio::test]
async fn stopping_names_cluster_and_reason() {
    let server = Server::start(|_| Reply::Json(200, json!({"task": {}}))).await;
    server.client().stop(&arn(), "enough").await.unwrap();
    assert_eq!(server.calls()[0].input, json!({"cluster": "c", "task": arn(), "reason": "enough"}));
    assert_eq!(server.operations(), ["StopTask"]);
}

#[tokio::test]
async fn lists_are_read_to_their_last_page() {
    let arns =
        |from: usize| (from..from + 100).map(|n| format!("{ACCOUNT_ARN}:task/c/{n}")).collect::<Vec<_>>();
    let server =
        Server::start(move |call| match (call.operation.as_str(), call.input["nextToken"].as_str()) {
            ("ListTasks", None) => Reply::Json(200, json!({"taskArns": arns(0), "nextToken": "1"})),
            ("ListTasks", Some("1")) => Reply::Json(200, json!({"taskArns": [], "nextToken": "2"})),
            ("ListTasks", Some(_)) => Reply::Json(200, json!({"taskArns": arns(100)[..50]})),
            ("DescribeTasks", _) => {
                let tasks = call.input["tasks"].as_array().unwrap();
                let task = |arn: &Value| json!({"taskArn": arn});
                Reply::Json(200, json!({"tasks": tasks.iter().map(task).collect::<Vec<_>>()}))
            }
            _ => Reply::Json(200, json!({"clusterArns": ["c"], "nextToken": "for ever"})),
        })
        .await;
    let client = server.client();
    let arns = client.list_all_tasks("c", DesiredStatus::Stopped).await.unwrap();
    assert_eq!(arns.len(), 150);
    assert!(server.calls().iter().all(|call| call.input["desiredStatus"] == "STOPPED"));
    let tasks = client.describe_all_tasks("c", &arns).await.unwrap();
    assert_eq!(tasks.iter().filter_map(|task| task.task_arn.clone()).collect::<Vec<_>>(), arns);
    assert_eq!(server.operations()[3..], ["DescribeTasks", "DescribeTasks"]);
    assert!(matches!(client.list_all_clusters().await, Err(Error::Answer { .. })));
}

fn definition() -> Reply {
    let options =
        json!({"awslogs-group": "own", "awslogs-stream-prefix": "p", "awslogs-region": "us-west-2"});
    Reply::Json(
        200,
        json!({"taskDefinition": {"family": "web", "containerDefinitions": [
            {"name": "app"},
            {"name": "side", "logConfiguration": {"logDriver": "awslogs", "options": options}},
        ]}}),
    )
}

/// The lines of `stream` that the call has not seen; the token is how many it has.
fn page(call: &Call, stream: &[(i64, &str)], page_len: usize) -> Reply {
    let seen: usize = call.input["nextToken"].as_str().map_or(0, |token| token.parse().unwrap());
    let events: Vec<_> = stream.iter().skip(seen).take(page_len).collect();
    let token = (seen + events.len()).to_string();
    let events: Vec<_> = events.iter().map(|(at, line)| json!({"timestamp": at, "message": line})).collect();
    Reply::Json(200, json!({"events": events, "nextForwardToken": token, "nextBackwardToken": "b/0"}))
}

const APP: &[(i64, &str)] = &[(1, "one"), (4, "four"), (5, "five")];
const SIDE: &[(i64, &str)] = &[(2, "two"), (3, "three")];

/// A task that writes a line each time somebody looks at it. The last line comes with its end, and one container's
/// stream is not there before the second look.
fn writing_task() -> impl FnMut(&Call) -> Reply + Send + 'static {
    let mut looks = 0;
    move |call| match (call.operation.as_str(), call.input["logGroupName"].as_str()) {
        ("DescribeTasks", _) => {
            looks += 1;
            described(if looks > 3 { "STOPPED" } else { "RUNNING" }, &json!([]))
        }
        ("DescribeTaskDefinition", _) => definition(),
        ("GetLogEvents", Some("/neargate/c")) => {
            assert_eq!(call.input["logStreamName"], "web/app/0123456789abcdef0123456789abcdef");
            page(call, &APP[..(looks - 1).min(APP.len())], 1)
        }
        ("GetLogEvents", Some("own")) if looks < 2 => {
            Reply::Json(400, json!({"__type": "ResourceNotFoundException", "message": "no stream"}))
        }
        ("GetLogEvents", Some("own")) => {
            assert_eq!(call.input["logStreamName"], "p/side/0123456789abcdef0123456789abcdef");
            assert_eq!(call.region, "us-west-2");
            page(call, SIDE, 10)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn following_shows_every_line_and_ends_with_the_task() {
    let server = Server::start(writing_task()).await;
    let events: Vec<_> = server.client().logs(arn()).follow().try_collect().await.unwrap();
    let lines: Vec<_> =
        events.iter().map(|event| (event.container.as_str(), event.message.as_str())).collect();
    let expect = [("app", "one"), ("side", "two"), ("side", "three"), ("app", "four"), ("app", "five")];
    assert_eq!(lines, expect);
    assert_eq!(events[1].timestamp_ms, 2);
}

#[tokio::test]
async fn one_container_can_be_followed() {
    let server = Server::start(writing_task()).await;
    let logs = server.client().logs(arn()).container("side");
    let events: Vec<_> = logs.follow().try_collect().await.unwrap();
    assert_eq!(events.iter().map(|event| event.message.as_str()).collect::<Vec<_>>(), ["two", "three"]);
}

#[tokio::test]
async fn reading_ends_with_what_there_is() {
    let server = Server::start(|call| match call.operation.as_str() {
        "DescribeTasks" => described("RUNNING", &json!([])),
        "DescribeTaskDefinition" => definition(),
        _ => page(call, if call.input["logGroupName"] == "own" { SIDE } else { APP }, 2),
    })
    .await;
    let events: Vec<_> = server.client().logs(arn()).read().try_collect().await.unwrap();
    let lines: Vec<_> = events.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(lines, ["one", "two", "three", "four", "five"]);
}

#[tokio::test]
async fn an_error_while_following_is_given_out() {
    let server = Server::start(|call| match call.operation.as_str() {
        "DescribeTasks" => described("RUNNING", &json!([])),
        "DescribeTaskDefinition" => definition(),
        _ => Reply::Json(400, json!({"__type": "AccessDeniedException", "message": "no"})),
    })
    .await;
    let result: Result<Vec<_>, _> = server.client().logs(arn()).follow().try_collect().await;
    assert_eq!(result.unwrap_err().code(), Some("AccessDeniedException"));
}

//! One task from definition to end, lists, tokens, and what is refused.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aws_sdk_ecs::types::{
    ContainerOverride, DesiredStatus, KeyValuePair, LaunchType, Tag, TaskOverride, TaskStopCode,
};

use crate::suite::{Case, Needs};
use crate::{
    CLUSTER, client, container, describe, exit_code, native, network, network_of, register, run, sdk, start,
    start_server, until, until_stopped, wait,
};

pub(crate) const CASES: &[Case] = &[
    ("task/wasm_runs_to_its_end", Needs::Wasm, wasm_runs_to_its_end),
    ("task/accepted_as_aws_accepts", Needs::Wasm, accepted_as_aws_accepts),
    ("task/exit_code_and_trap", Needs::Wasm, exit_code_and_trap),
    ("task/overrides", Needs::Wasm, overrides),
    ("task/stop_is_user_initiated", Needs::Wasm, stop_is_user_initiated),
    ("task/end_is_waited_for", Needs::Wasm, end_is_waited_for),
    ("task/waiting_ends_with_the_server", Needs::Wasm, waiting_ends_with_the_server),
    ("task/absent_image_fails_to_start", Needs::Nothing, absent_image_fails_to_start),
    ("task/client_token", Needs::Wasm, client_token),
    ("task/ten_at_once", Needs::Wasm, ten_at_once),
    ("task/lists_page_by_page", Needs::Wasm, lists_page_by_page),
    ("task/stamps_are_in_order", Needs::Wasm, stamps_are_in_order),
    ("task/tags", Needs::Wasm, tags),
    ("task/container_runs_to_its_end", Needs::Root, container_runs_to_its_end),
];

fn wasm_runs_to_its_end() -> Result<()> {
    let task = run(&client()?, "end", vec![container("main", "probe", &["echo", "hello"]).build()])?;
    assert_eq!(exit_code(&task, "main"), Some(0));
    assert_eq!(task.stop_code(), Some(&TaskStopCode::EssentialContainerExited));
    assert_eq!(task.stopped_reason(), Some("Essential container in task exited"));
    assert_eq!(task.desired_status(), Some("STOPPED"));
    Ok(())
}

fn accepted_as_aws_accepts() -> Result<()> {
    let client = client()?;
    register(&client, "accepted", vec![container("main", "probe", &["exit", "0"]).build()])?;
    let call =
        client.run_task().cluster(CLUSTER).task_definition("accepted").launch_type(LaunchType::Fargate);
    let answer = wait(call.network_configuration(network()?).send())?;
    assert!(answer.failures().is_empty());
    let task = answer.tasks().first().context("one task")?;
    assert_eq!(task.last_status(), Some("PROVISIONING"));
    assert_eq!(task.desired_status(), Some("RUNNING"));
    assert_eq!((task.stopped_reason(), task.stop_code()), (None, None));
    assert_eq!((task.cpu(), task.memory()), (Some("256"), Some("512")));
    assert_eq!(task.group(), Some("family:accepted"));
    assert_eq!(task.platform_version(), Some("1.4.0"));
    assert_eq!(task.version(), 1);
    let container = task.containers().first().context("one container")?;
    assert_eq!((container.last_status(), container.exit_code()), (Some("PENDING"), None));
    Ok(())
}

fn exit_code_and_trap() -> Result<()> {
    let client = client()?;
    let task = run(&client, "exit-3", vec![container("main", "probe", &["exit", "3"]).build()])?;
    assert_eq!(exit_code(&task, "main"), Some(3));
    let task = run(&client, "trap", vec![container("main", "probe", &["trap"]).build()])?;
    assert_eq!(exit_code(&task, "main"), Some(134));
    assert_eq!(task.stop_code(), Some(&TaskStopCode::EssentialContainerExited));
    Ok(())
}

fn overrides() -> Result<()> {
    let client = client()?;
    register(&client, "overridden", vec![container("main", "probe", &["exit", "9"]).build()])?;
    let variable = KeyValuePair::builder().name("CODE").value("5").build();
    let main =
        ContainerOverride::builder().name("main").command("exit").command("5").environment(variable).build();
    let overrides = TaskOverride::builder().container_overrides(main).build();
    let call =
        client.run_task().cluster(CLUSTER).task_definition("overridden").launch_type(LaunchType::Fargate);
    let answer = wait(call.network_configuration(network()?).overrides(overrides).send())?;
    let arn = answer.tasks().first().and_then(|task| task.task_arn()).context("a task")?;
    let task = until_stopped(&client, arn)?;
    assert_eq!(exit_code(&task, "main"), Some(5));
    let kept = task.overrides().context("overrides are kept")?.container_overrides();
    assert_eq!(kept.first().map(|kept| kept.command().join(" ")), Some("exit 5".to_owned()));
    Ok(())
}

fn stop_is_user_initiated() -> Result<()> {
    let client = client()?;
    let sleeper = container("main", "probe", &["tick", "60000"]).stop_timeout(2).build();
    register(&client, "stopped", vec![sleeper])?;
    let arn = start(&client, "stopped")?;
    until(&client, &arn, "running", |task| task.last_status() == Some("RUNNING"))?;
    let answer = wait(client.stop_task().cluster(CLUSTER).task(&arn).reason("enough").send())?;
    assert_eq!(answer.task().and_then(|task| task.desired_status()), Some("STOPPED"));
    let task = until_stopped(&client, &arn)?;
    assert_eq!(task.stop_code(), Some(&TaskStopCode::UserInitiated));
    assert_eq!(task.stopped_reason(), Some("enough"));
    assert!(task.stopping_at().is_some() && task.stopped_at().is_some());
    Ok(())
}

/// The native API answers once the task has stopped, or when the time is over.
fn end_is_waited_for() -> Result<()> {
    let client = client()?;
    let sleeper = container("main", "probe", &["tick", "60000"]).stop_timeout(2).build();
    register(&client, "waited", vec![sleeper])?;
    let arn = start(&client, "waited")?;
    let path = format!("/v1/tasks/{}", arn.rsplit('/').next().context("an ARN has an id")?);
    let ask = |query: &str| native(&path, &format!("cluster={CLUSTER}&{query}"));
    assert_eq!(ask("timeout=60&wait=running")?["status"], "RUNNING");
    // The task goes on for a minute, so that it is the time that is over.
    assert_eq!(ask("timeout=1&wait=stopped")?["status"], "RUNNING");
    let stopping = std::thread::spawn({
        let (client, arn) = (client.clone(), arn.clone());
        move || -> Result<()> { Ok(wait(client.stop_task().cluster(CLUSTER).task(&arn).send()).map(drop)?) }
    });
    assert_eq!(ask("timeout=60&wait=stopped")?["status"], "STOPPED");
    stopping.join().expect("the thread returns its error")?;
    assert_eq!(until_stopped(&client, &arn)?.stop_code(), Some(&TaskStopCode::UserInitiated));
    // Of one that has stopped nothing is waited for.
    assert_eq!(ask("timeout=60&wait=running")?["status"], "STOPPED");
    for wrong in ["wait=gone", "timeout=0&wait=stopped", "timeout=61&wait=stopped", "timeout=x&wait=stopped"]
    {
        let error = ask(wrong).expect_err(wrong).to_string();
        assert!(error.contains("answered 400"), "{wrong}: {error}");
    }
    let unknown =
        native(&format!("/v1/tasks/{}", "f".repeat(32)), &format!("cluster={CLUSTER}&wait=stopped"));
    assert!(unknown.is_err_and(|error| error.to_string().contains("answered 404")));
    Ok(())
}

/// Who waits keeps no server from its end, and is answered.
fn waiting_ends_with_the_server() -> Result<()> {
    let mut server = start_server()?;
    let client = sdk(&server);
    register(
        &client,
        "waited",
        vec![container("main", "probe", &["tick", "60000"]).stop_timeout(2).build()],
    )?;
    let network = network_of(&server)?;
    let call = client.run_task().cluster(CLUSTER).task_definition("waited").launch_type(LaunchType::Fargate);
    let answer = wait(call.network_configuration(network).send())?;
    let arn = answer.tasks().first().and_then(|task| task.task_arn()).context("one task")?.to_owned();
    let path = format!("/v1/tasks/{}", arn.rsplit('/').next().context("an ARN has an id")?);
    server.client().native(&path, &format!("cluster={CLUSTER}&timeout=60&wait=running"))?;
    let mut waiting = server.client();
    let answer = std::thread::scope(|scope| {
        let answer = scope.spawn(|| {
            let query = format!("cluster={CLUSTER}&timeout=60&wait=stopped");
            waiting.native(&path, &query)
        });
        // Were it not waiting yet it would be refused, which is seen below.
        std::thread::sleep(Duration::from_millis(300));
        let ended = server.stop();
        (answer.join().expect("the thread returns its error"), ended)
    });
    let (answer, ended) = answer;
    assert!(ended?.success());
    assert!(answer?["status"].is_string());
    let log = server.log();
    assert!(!log.contains("requests were still in flight"), "{log}");
    Ok(())
}

fn absent_image_fails_to_start() -> Result<()> {
    let client = client()?;
    let task = run(&client, "absent", vec![container("main", "no-such-image", &[]).build()])?;
    assert_eq!(task.stop_code(), Some(&TaskStopCode::TaskFailedToStart));
    let reason = task.stopped_reason().unwrap_or_default();
    assert!(reason.starts_with("CannotPullContainerError"), "{reason}");
    assert!(reason.contains("no-such-image"), "{reason}");
    assert_eq!(exit_code(&task, "main"), None);
    assert_eq!(task.started_at(), None);
    Ok(())
}

fn client_token() -> Result<()> {
    let client = client()?;
    register(&client, "token", vec![container("main", "probe", &["exit", "0"]).build()])?;
    let call = |count| {
        let call =
            client.run_task().cluster(CLUSTER).task_definition("token").launch_type(LaunchType::Fargate);
        anyhow::Ok(call.network_configuration(network()?).client_token("one-token").count(count))
    };
    let arns = |answer: aws_sdk_ecs::operation::run_task::RunTaskOutput| -> Vec<String> {
        answer.tasks().iter().filter_map(|task| task.task_arn().map(str::to_owned)).collect()
    };
    let first = arns(wait(call(2)?.send())?);
    assert_eq!(first.len(), 2);
    assert_eq!(arns(wait(call(2)?.send())?), first);
    let error = wait(call(1)?.send()).expect_err("another request with the same token").into_service_error();
    assert!(error.is_conflict_exception(), "{error:?}");
    Ok(())
}

fn ten_at_once() -> Result<()> {
    let client = client()?;
    register(&client, "ten", vec![container("main", "probe", &["exit", "0"]).build()])?;
    let call =
        client.run_task().cluster(CLUSTER).task_definition("ten").launch_type(LaunchType::Fargate).count(10);
    let answer = wait(call.network_configuration(network()?).send())?;
    let arns: BTreeSet<&str> = answer.tasks().iter().filter_map(|task| task.task_arn()).collect();
    assert_eq!(arns.len() + answer.failures().len(), 10, "{:?}", answer.failures());
    assert!(!arns.is_empty());
    for arn in arns {
        assert_eq!(exit_code(&until_stopped(&client, arn)?, "main"), Some(0));
    }
    Ok(())
}

fn lists_page_by_page() -> Result<()> {
    let client = client()?;
    register(&client, "paged", vec![container("main", "probe", &["exit", "0"]).build()])?;
    let started: BTreeSet<String> = (0..7).map(|_| start(&client, "paged")).collect::<Result<_>>()?;
    for arn in &started {
        until_stopped(&client, arn)?;
    }
    let list = client.list_tasks().cluster(CLUSTER).family("paged").desired_status(DesiredStatus::Stopped);
    let pages: Vec<_> = wait(list.max_results(3).into_paginator().send().collect::<Result<Vec<_>, _>>())?;
    let sizes: Vec<usize> = pages.iter().map(|page| page.task_arns().len()).collect();
    assert!(sizes.len() >= 3 && sizes.iter().all(|size| *size <= 3), "{sizes:?}");
    let listed: BTreeSet<String> = pages.iter().flat_map(|page| page.task_arns().to_vec()).collect();
    assert_eq!(listed, started);
    let running = wait(client.list_tasks().cluster(CLUSTER).family("paged").send())?;
    assert!(running.task_arns().is_empty(), "stopped tasks are listed as wanted running");
    Ok(())
}

fn stamps_are_in_order() -> Result<()> {
    let task = run(&client()?, "stamps", vec![container("main", "probe", &["sleep", "50"]).build()])?;
    let stamps = [
        ("createdAt", task.created_at()),
        ("pullStartedAt", task.pull_started_at()),
        ("pullStoppedAt", task.pull_stopped_at()),
        ("startedAt", task.started_at()),
        ("stoppingAt", task.stopping_at()),
        ("stoppedAt", task.stopped_at()),
    ];
    let seconds: Vec<f64> = stamps
        .iter()
        .map(|(name, stamp)| {
            stamp.map(aws_sdk_ecs::primitives::DateTime::as_secs_f64).with_context(|| (*name).to_owned())
        })
        .collect::<Result<_>>()?;
    assert!(seconds.is_sorted(), "{stamps:?}");
    assert!(seconds[5] - seconds[3] < Duration::from_secs(20).as_secs_f64());
    assert!(task.version() > 1);
    Ok(())
}

fn tags() -> Result<()> {
    let client = client()?;
    register(&client, "tagged", vec![container("main", "probe", &["exit", "0"]).build()])?;
    let tag = Tag::builder().key("team").value("blue").build();
    let call = client.run_task().cluster(CLUSTER).task_definition("tagged").launch_type(LaunchType::Fargate);
    let answer = wait(call.network_configuration(network()?).tags(tag.clone()).started_by("suite").send())?;
    let task = answer.tasks().first().context("a task")?;
    assert_eq!(task.tags(), std::slice::from_ref(&tag));
    let arn = task.task_arn().context("an ARN")?;
    assert_eq!(task.started_by(), Some("suite"));
    let listed = wait(client.list_tags_for_resource().resource_arn(arn).send())?;
    assert_eq!(listed.tags(), [tag]);
    wait(client.untag_resource().resource_arn(arn).tag_keys("team").send())?;
    assert!(wait(client.list_tags_for_resource().resource_arn(arn).send())?.tags().is_empty());
    Ok(())
}

fn container_runs_to_its_end() -> Result<()> {
    let client = client()?;
    let task = run(&client, "box", vec![container("main", "busybox", &["sh", "-c", "exit 7"]).build()])?;
    assert_eq!(exit_code(&task, "main"), Some(7));
    let killed = container("main", "busybox", &["tail", "/dev/zero"]).memory(32).build();
    let task = run(&client, "greedy", vec![killed])?;
    assert_eq!(exit_code(&task, "main"), Some(137));
    let container = task.containers().first().context("a container")?;
    assert_eq!(container.reason(), Some("OutOfMemoryError: Container killed due to memory usage"));
    let arn = task.task_arn().context("an ARN")?;
    assert_eq!(describe(&client, arn)?.last_status(), Some("STOPPED"));
    Ok(())
}

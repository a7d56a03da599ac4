//! Tasks of several containers: order, health, ends and restarts, each proven by what the containers saw.

use anyhow::{Context as _, Result};
use aws_sdk_ecs::types::{
    ContainerCondition, ContainerDependency, ContainerRestartPolicy, HealthCheck, HealthStatus, TaskStopCode,
};

use crate::suite::{Case, Needs};
use crate::{CLUSTER, client, container, exit_code, register, run, shell, start, until, until_stopped, wait};

pub(crate) const CASES: &[Case] = &[
    ("containers/wait_for_complete_and_success", Needs::Root, wait_for_complete_and_success),
    ("containers/failed_dependency_fails_the_task", Needs::Root, failed_dependency_fails_the_task),
    ("containers/wait_for_start", Needs::Root, wait_for_start),
    ("containers/wait_for_health", Needs::Root, wait_for_health),
    ("containers/unhealthy_is_seen", Needs::Root, unhealthy_is_seen),
    ("containers/essential_end_stops_the_others", Needs::Root, essential_end_stops_the_others),
    ("containers/other_ends_do_not_matter", Needs::Root, other_ends_do_not_matter),
    ("containers/stop_timeout_bounds_the_end", Needs::Root, stop_timeout_bounds_the_end),
    ("containers/restart_policy", Needs::Root, restart_policy),
    ("containers/share_the_network_of_the_task", Needs::Root, share_the_network_of_the_task),
    ("containers/wasm_beside_linux", Needs::RootAndWasm, wasm_beside_linux),
];

fn after(name: &str, condition: ContainerCondition) -> ContainerDependency {
    ContainerDependency::builder()
        .container_name(name)
        .condition(condition)
        .build()
        .expect("both fields are set")
}

fn wait_for_complete_and_success() -> Result<()> {
    let client = client()?;
    let task = run(
        &client,
        "ordered",
        vec![
            shell("main", "exit 0")
                .depends_on(after("first", ContainerCondition::Complete))
                .depends_on(after("second", ContainerCondition::Success))
                .build(),
            shell("first", "exit 4").essential(false).build(),
            shell("second", "sleep 1").essential(false).build(),
        ],
    )?;
    assert_eq!(exit_code(&task, "main"), Some(0));
    assert_eq!(exit_code(&task, "first"), Some(4));
    assert_eq!(exit_code(&task, "second"), Some(0));
    Ok(())
}

fn failed_dependency_fails_the_task() -> Result<()> {
    let client = client()?;
    let task = run(
        &client,
        "unsuccessful",
        vec![
            shell("main", "exit 0").depends_on(after("first", ContainerCondition::Success)).build(),
            shell("first", "exit 4").essential(false).build(),
        ],
    )?;
    assert_eq!(task.stop_code(), Some(&TaskStopCode::TaskFailedToStart), "{task:#?}");
    assert_eq!(exit_code(&task, "main"), None, "it ran although what it waits for failed");
    Ok(())
}

fn wait_for_start() -> Result<()> {
    let client = client()?;
    let task = run(
        &client,
        "started",
        vec![
            shell("main", "exit 0").depends_on(after("side", ContainerCondition::Start)).build(),
            shell("side", "sleep 60").essential(false).stop_timeout(2).build(),
        ],
    )?;
    assert_eq!(exit_code(&task, "main"), Some(0));
    assert!(exit_code(&task, "side").is_some_and(|code| code != 0), "the side container was not stopped");
    Ok(())
}

fn check(command: &str) -> HealthCheck {
    HealthCheck::builder()
        .command("CMD-SHELL")
        .command(command)
        .interval(5)
        .timeout(2)
        .retries(1)
        .build()
        .expect("the command is set")
}

fn wait_for_health() -> Result<()> {
    let client = client()?;
    let task = run(
        &client,
        "healthy",
        vec![
            shell("main", "exit 0").depends_on(after("server", ContainerCondition::Healthy)).build(),
            shell("server", "touch /tmp/ready; sleep 60")
                .essential(false)
                .stop_timeout(2)
                .health_check(check("test -e /tmp/ready"))
                .build(),
        ],
    )?;
    assert_eq!(exit_code(&task, "main"), Some(0), "{task:#?}");
    Ok(())
}

fn unhealthy_is_seen() -> Result<()> {
    let client = client()?;
    let sick = shell("main", "sleep 60").stop_timeout(2).health_check(check("exit 1")).build();
    register(&client, "unhealthy", vec![sick])?;
    let arn = start(&client, "unhealthy")?;
    until(&client, &arn, "unhealthy", |task| {
        task.containers().first().and_then(|container| container.health_status())
            == Some(&HealthStatus::Unhealthy)
    })?;
    wait(client.stop_task().cluster(CLUSTER).task(&arn).send())?;
    until_stopped(&client, &arn)?;
    Ok(())
}

fn essential_end_stops_the_others() -> Result<()> {
    let client = client()?;
    let task = run(
        &client,
        "essential",
        vec![
            shell("main", "exit 2").build(),
            shell("side", "trap 'exit 55' TERM; while :; do sleep 1 & wait $!; done").essential(true).build(),
        ],
    )?;
    assert_eq!(task.stop_code(), Some(&TaskStopCode::EssentialContainerExited));
    assert_eq!(exit_code(&task, "main"), Some(2));
    let side = exit_code(&task, "side");
    assert!([Some(55), Some(143), Some(137), None].contains(&side), "{side:?}");
    Ok(())
}

fn other_ends_do_not_matter() -> Result<()> {
    let client = client()?;
    let task = run(
        &client,
        "inessential",
        vec![shell("main", "sleep 1; exit 0").build(), shell("side", "exit 9").essential(false).build()],
    )?;
    assert_eq!(exit_code(&task, "main"), Some(0));
    assert_eq!(exit_code(&task, "side"), Some(9));
    Ok(())
}

fn stop_timeout_bounds_the_end() -> Result<()> {
    let client = client()?;
    let deaf = shell("main", "trap '' TERM; while :; do sleep 1; done").stop_timeout(2).build();
    register(&client, "deaf", vec![deaf])?;
    let arn = start(&client, "deaf")?;
    until(&client, &arn, "running", |task| task.last_status() == Some("RUNNING"))?;
    wait(client.stop_task().cluster(CLUSTER).task(&arn).send())?;
    let task = until_stopped(&client, &arn)?;
    assert_eq!(exit_code(&task, "main"), Some(137));
    let seconds = |stamp: Option<&aws_sdk_ecs::primitives::DateTime>| stamp.map(|stamp| stamp.as_secs_f64());
    let took = seconds(task.stopped_at()).context("stoppedAt")?
        - seconds(task.stopping_at()).context("stoppingAt")?;
    assert!((1.5..20.0).contains(&took), "it took {took} s");
    Ok(())
}

fn restart_policy() -> Result<()> {
    let client = client()?;
    let policy =
        ContainerRestartPolicy::builder().enabled(true).ignored_exit_codes(6).restart_attempt_period(60);
    let flaky = shell("flaky", "exit 6").essential(false).restart_policy(policy.build()?).build();
    let task = run(&client, "restarted", vec![shell("main", "sleep 1").build(), flaky])?;
    assert_eq!(exit_code(&task, "flaky"), Some(6), "an ignored exit code does not restart");
    assert_eq!(exit_code(&task, "main"), Some(0));
    Ok(())
}

/// One container listens, the other reaches it through the loopback device that they share.
fn share_the_network_of_the_task() -> Result<()> {
    let client = client()?;
    let ask = "for i in $(seq 50); do echo ping | busybox nc -w 5 127.0.0.1 7070 | grep -q pong && exit 0; sleep 0.1; done; exit 1";
    let answer = "while :; do echo pong | busybox nc -l -p 7070; done";
    let task = run(
        &client,
        "network",
        vec![shell("main", ask).build(), shell("side", answer).essential(false).stop_timeout(2).build()],
    )?;
    assert_eq!(exit_code(&task, "main"), Some(0), "{task:#?}");
    Ok(())
}

/// A task may have containers of both kinds, and one may wait for the other.
fn wasm_beside_linux() -> Result<()> {
    let client = client()?;
    let task = run(
        &client,
        "mixed",
        vec![
            shell("main", "exit 3").depends_on(after("wasm", ContainerCondition::Success)).build(),
            container("wasm", "probe", &["exit", "0"]).essential(false).build(),
        ],
    )?;
    assert_eq!(exit_code(&task, "wasm"), Some(0));
    assert_eq!(exit_code(&task, "main"), Some(3));
    Ok(())
}

"""CloudWatch Logs: what tasks write, and what clients write and read."""

import time

from conftest import needs_wasm
from errors import refused


def options(group, prefix="p"):
    return {"logConfiguration": {"logDriver": "awslogs", "options": {
        "awslogs-group": group, "awslogs-region": "us-east-1", "awslogs-stream-prefix": prefix,
        "awslogs-create-group": "true"}}}


def read_all(logs, group, stream):
    """As fetchers do: until the token repeats."""
    messages, token = [], None
    while True:
        more = {"nextToken": token} if token else {}
        page = logs.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True, limit=100, **more)
        messages += [event["message"] for event in page["events"]]
        if page["nextForwardToken"] == token:
            return messages
        token = page["nextForwardToken"]


@needs_wasm
def test_task_output_is_complete_and_in_order(logs, register, run, until_stopped, family):
    group = f"/tasks/{family}"
    register(["lines", "1000"], container=options(group))
    arn = run()["tasks"][0]["taskArn"]
    until_stopped(arn)
    stream = f"p/main/{arn.rsplit('/', 1)[1]}"
    deadline = time.monotonic() + 10
    while len(messages := read_all(logs, group, stream)) < 1000 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert messages == [f"line {i}" for i in range(1000)]
    streams = logs.describe_log_streams(logGroupName=group)["logStreams"]
    assert [s["logStreamName"] for s in streams] == [stream]


@needs_wasm
def test_filter(logs, register, run, until_stopped, family):
    group = f"/tasks/{family}"
    register(["lines", "50"], container=options(group))
    until_stopped(run()["tasks"][0]["taskArn"])
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group, filterPattern='"line 4"')
        found = [event["message"] for page in pages for event in page["events"]]
        if len(found) >= 11:
            break
        time.sleep(0.05)
    assert found == ["line 4"] + [f"line 4{i}" for i in range(10)]


@needs_wasm
def test_missing_group_without_create_fails_the_task(register, run, until_stopped, family):
    configuration = options(f"/absent/{family}")
    del configuration["logConfiguration"]["options"]["awslogs-create-group"]
    register(["exit", "0"], container=configuration)
    task = until_stopped(run()["tasks"][0]["taskArn"])
    assert task["stopCode"] == "TaskFailedToStart", task
    assert f"/absent/{family}" in task["stoppedReason"]


def test_client_writes(logs):
    logs.create_log_group(logGroupName="/client")
    with refused("ResourceAlreadyExistsException"):
        logs.create_log_group(logGroupName="/client")
    logs.create_log_stream(logGroupName="/client", logStreamName="one")
    now = int(time.time() * 1000)
    events = [{"timestamp": now + i, "message": f"m{i}"} for i in range(3)]
    logs.put_log_events(logGroupName="/client", logStreamName="one", logEvents=events)
    got = logs.get_log_events(logGroupName="/client", logStreamName="one", startFromHead=True)["events"]
    assert [(event["timestamp"], event["message"]) for event in got] == [(now + i, f"m{i}") for i in range(3)]
    logs.put_retention_policy(logGroupName="/client", retentionInDays=7)
    group = logs.describe_log_groups(logGroupNamePrefix="/client")["logGroups"][0]
    assert group["retentionInDays"] == 7 and group["arn"].endswith(":log-group:/client:*")
    logs.delete_log_stream(logGroupName="/client", logStreamName="one")
    with refused("ResourceNotFoundException"):
        logs.get_log_events(logGroupName="/client", logStreamName="one")
    logs.delete_log_group(logGroupName="/client")
    with refused("ResourceNotFoundException"):
        logs.describe_log_streams(logGroupName="/client")



"""Wasm tasks by the API of ECS: how they are run, reached, checked, stopped and limited, and what they leave behind."""

import json
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest

from conftest import (
    BINARY, CLUSTER, MODULE, SERVICE, WASI, Server, needs_root, needs_service, needs_stopping, needs_wasm)
from errors import refused

pytestmark = needs_wasm

LIMIT_S = 60
ISOLATION = "neargate.wasm.isolation"
CLASSES = ["shared", pytest.param("thread", marks=needs_root), pytest.param("process", marks=needs_root)]

# (module (func (export "_start") (loop (br 0)))
#         (func (export "healthy") (result i32) (i32.const 1))
#         (func (export "sick") unreachable))
CHECKED = (b"\0asm\1\0\0\0" b"\1\x08\2\x60\0\0\x60\0\1\x7f" b"\3\4\3\0\1\0"
           b"\7\x1b\3\6_start\0\0\7healthy\0\1\4sick\0\2"
           b"\x0a\x12\3" b"\7\0\3\x40\x0c\0\x0b\x0b" b"\4\0\x41\1\x0b" b"\3\0\0\x0b")


@pytest.fixture
def bridge(ecs, family):
    """Registers containers with the host's address in front of them, and runs them."""
    def bridge(*containers, cluster=CLUSTER, **more):
        containers = [{"memory": 256, **container} for container in containers]
        ecs.register_task_definition(family=family, networkMode="bridge", containerDefinitions=containers, **more)
        answer = ecs.run_task(cluster=cluster, taskDefinition=family)
        assert answer["failures"] == []
        return answer["tasks"][0]["taskArn"]
    return bridge


@pytest.fixture
def until(ecs):
    """Waits until a task is as it should be."""
    def until(arn, condition, cluster=CLUSTER):
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            task = ecs.describe_tasks(cluster=cluster, tasks=[arn])["tasks"][0]
            if condition(task):
                return task
            assert task["lastStatus"] != "STOPPED", f"stopped too early: {task}"
            time.sleep(0.01)
        raise AssertionError(f"not as it should be within {LIMIT_S} s: {task}")
    return until


@pytest.fixture
def debug(server):
    def debug(arn, *more):
        return server.neargate("debug", arn, "--data", str(server.data), "--endpoint", server.endpoint, *more)
    return debug


def is_running(task):
    return task["lastStatus"] == "RUNNING"


def container(task, name):
    return next(one for one in task["containers"] if one["name"] == name)


# How it is said.

LABELS = {
    ISOLATION: "shared", "neargate.wasm.reuse": "10", "neargate.wasm.grants": "wasi:config,wasi:keyvalue",
    "neargate.wasm.config.colour": "red", "neargate.wasm.cpu-budget-ms": "5000", "neargate.wasm.network": "none",
    "neargate.wasm.core-dump": "false", "neargate.wasm.profile": "true", "com.example.owner": "me",
}


def test_labels_come_back(ecs, family, register):
    register(container={"dockerLabels": LABELS})
    definition = ecs.describe_task_definition(taskDefinition=family)["taskDefinition"]
    assert definition["containerDefinitions"][0]["dockerLabels"] == LABELS


@pytest.mark.parametrize("label,value,part", [
    ("neargate.wasm.isolatoin", "shared", "known are neargate.wasm.isolation, neargate.wasm.export"),
    ("neargate.trace", "true", "there is no such label"),
    (ISOLATION, "vm", "shared, thread and process"),
    ("neargate.wasm.reuse", "0", "between 1 and 1000000"),
    ("neargate.wasm.grants", "wasi:nn", "cannot be granted"),
    ("neargate.wasm.config.", "x", "a name"),
    ("neargate.wasm.cpu-budget-ms", "soon", "whole number"),
    ("neargate.wasm.network", "host", "--allow-host-network"),
    ("neargate.wasm.core-dump", "yes", "true and false"),
])
def test_wrong_labels_are_named(register, label, value, part):
    with refused("ClientException", part=part) as caught:
        register(container={"dockerLabels": {label: value}})
    assert label in caught.value.response["Error"]["Message"]


@pytest.mark.parametrize("mapping,part", [
    ({"containerPortRange": "90-80"}, "containerPortRange"),
    ({"containerPort": 0}, "between 1 and 65535"),
    ({"containerPort": 65536}, "between 1 and 65535"),
    ({"containerPort": 80, "hostPort": 81}, "must be containerPort 80 or absent"),
])
def test_wrong_port_mappings(register, mapping, part):
    with refused("ClientException", part=part):
        register(container={"portMappings": [mapping]})


def test_wasm_listens_by_tcp_only_on_the_host(bridge, until_stopped):
    arn = bridge({"name": "main", "image": "probe", "portMappings": [{"containerPort": 53, "protocol": "udp"}]})
    task = until_stopped(arn)
    assert "a Wasm container listens by TCP only" in task["containers"][0]["reason"], task


@needs_root
def test_labels_are_for_wasm_alone(register, run, until_stopped):
    register(["true"], image="busybox", container={"dockerLabels": {ISOLATION: "process"}})
    task = until_stopped(run()["tasks"][0]["taskArn"])
    assert task["stopCode"] == "TaskFailedToStart" and "neargate.wasm" in task["stoppedReason"], task


# How it is run.

@pytest.mark.parametrize("isolation", CLASSES)
@pytest.mark.parametrize("command,code", [(["exit", "0"], 0), (["exit", "3"], 3), (["trap"], 134)])
def test_exit_codes_in_every_class(register, run, until_stopped, isolation, command, code):
    register(command, container={"dockerLabels": {ISOLATION: isolation}})
    task = until_stopped(run()["tasks"][0]["taskArn"])
    assert task["stopCode"] == "EssentialContainerExited"
    assert task["containers"][0]["exitCode"] == code, task


@pytest.mark.parametrize("isolation", CLASSES)
def test_logs_in_every_class(logs, register, run, until_stopped, family, isolation):
    options = {"awslogs-group": f"/{family}", "awslogs-stream-prefix": "p", "awslogs-create-group": "true"}
    register(["echo", "from", isolation], container={
        "dockerLabels": {ISOLATION: isolation},
        "logConfiguration": {"logDriver": "awslogs", "options": options}})
    arn = run()["tasks"][0]["taskArn"]
    until_stopped(arn)
    stream = f"p/main/{arn.rsplit('/', 1)[1]}"
    events = logs.get_log_events(logGroupName=f"/{family}", logStreamName=stream)["events"]
    assert [event["message"] for event in events] == [f"from {isolation}"]


@needs_root
def test_mixed_task_ends_with_its_essential_container(bridge, until_stopped):
    wasm = {"name": "wasm", "image": "probe", "command": ["exit", "3"]}
    linux = {"name": "linux", "image": "busybox", "command": ["sleep", "60"], "essential": False, "stopTimeout": 2}
    task = until_stopped(bridge(wasm, linux))
    assert task["stoppedReason"] == "Essential container in task exited"
    assert container(task, "wasm")["exitCode"] == 3
    assert container(task, "linux")["exitCode"] in (137, 143)


@needs_root
def test_mixed_task_goes_on_without_others(bridge, until_stopped):
    wasm = {"name": "wasm", "image": "probe", "command": ["exit", "3"], "essential": False}
    linux = {"name": "linux", "image": "busybox", "command": ["sh", "-c", "sleep 0.2; exit 4"],
             "dependsOn": [{"containerName": "wasm", "condition": "COMPLETE"}]}
    task = until_stopped(bridge(wasm, linux))
    assert (container(task, "wasm")["exitCode"], container(task, "linux")["exitCode"]) == (3, 4)


@needs_root
def test_mixed_task_shares_a_volume(bridge, until_stopped):
    mount = [{"sourceVolume": "v", "containerPath": "/v"}]
    wasm = {"name": "wasm", "image": "probe", "command": ["write", "/v/said", "by wasm"], "essential": False,
            "mountPoints": mount}
    linux = {"name": "linux", "image": "busybox", "command": ["grep", "-qx", "by wasm", "/v/said"],
             "mountPoints": mount, "dependsOn": [{"containerName": "wasm", "condition": "SUCCESS"}]}
    task = until_stopped(bridge(wasm, linux, volumes=[{"name": "v"}]))
    assert [container(task, name).get("exitCode") for name in ["wasm", "linux"]] == [0, 0], task


def test_a_cluster_may_have_workers_of_its_own(ecs, bridge, family, until_stopped):
    name = f"apart-{family}"
    with refused("InvalidParameterException", part="own-workers"):
        ecs.create_cluster(clusterName=name, tags=[{"key": "neargate:isolation", "value": "maybe"}])
    ecs.create_cluster(clusterName=name, tags=[{"key": "neargate:isolation", "value": "own-workers"}])
    arn = bridge({"name": "main", "image": "probe", "command": ["exit", "0"]}, cluster=name)
    assert until_stopped(arn, cluster=name)["containers"][0]["exitCode"] == 0
    ecs.delete_cluster(cluster=name)


# How it is reached.

def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.status, answer.read().decode()


@needs_service
@pytest.mark.parametrize("isolation", CLASSES)
def test_port_mapping(ecs, bridge, until, until_stopped, isolation):
    arn = bridge({"name": "web", "image": "service", "portMappings": [{"containerPort": 80}], "stopTimeout": 5,
                  "dockerLabels": {ISOLATION: isolation}})
    task = until(arn, is_running)
    [binding] = task["containers"][0]["networkBindings"]
    assert (binding["bindIP"], binding["containerPort"], binding["protocol"]) == ("0.0.0.0", 80, "tcp")
    port = binding["hostPort"]
    assert get(port, "/count") == (200, "1\n")
    assert get(port, "/count") == (200, "1\n"), "every request has an instance of its own"
    ecs.stop_task(cluster=CLUSTER, task=arn, reason="enough")
    task = until_stopped(arn)
    assert task["containers"][0]["exitCode"] in (0, 143), task
    with pytest.raises(OSError):
        get(port, "/count")


@needs_service
def test_instances_are_reused_when_asked_for(ecs, bridge, until, until_stopped):
    arn = bridge({"name": "web", "image": "service", "portMappings": [{"containerPort": 80}], "cpu": 256,
                  "dockerLabels": {"neargate.wasm.reuse": "3"}}, cpu="256", memory="256")
    port = until(arn, is_running)["containers"][0]["networkBindings"][0]["hostPort"]
    seen = [get(port, "/count")[1].strip() for _ in range(6)]
    assert max(map(int, seen)) == 3, seen
    ecs.stop_task(cluster=CLUSTER, task=arn)
    until_stopped(arn)


@needs_service
def test_a_port_that_is_taken_is_named(ecs, family):
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        container = {"name": "web", "image": "service", "memory": 256,
                     "portMappings": [{"containerPort": 80, "hostPort": port}]}
        ecs.register_task_definition(family=family, networkMode="bridge", containerDefinitions=[container])
        answer = ecs.run_task(cluster=CLUSTER, taskDefinition=family)
    assert answer["tasks"] == [] and [one["reason"] for one in answer["failures"]] == ["RESOURCE:PORTS"], answer
    assert f"port {port}/tcp of the host" in answer["failures"][0]["detail"], answer


@needs_service
def test_a_handler_needs_a_port(bridge, until_stopped):
    task = until_stopped(bridge({"name": "web", "image": "service"}))
    assert task["stopCode"] == "TaskFailedToStart" and "port mapping" in task["stoppedReason"], task


# What it reaches.

@needs_service
@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0.0.0.0:0"])
def test_the_hosts_network_has_no_server_in_it(server_directory, listen):
    server = Server(server_directory(), "--allow-host-network", listen=listen)
    try:
        server.neargate("image", "import", str(WASI), "--name", "wasi", "--data", str(server.data))
        ecs, logs = server.client("ecs"), server.client("logs")
        ecs.create_cluster(clusterName="default")
        options = {"awslogs-group": "/net", "awslogs-stream-prefix": "p", "awslogs-create-group": "true"}

        def said(*words):
            """What a guest with the host's network says."""
            ecs.register_task_definition(family="net", networkMode="bridge", containerDefinitions=[{
                "name": "main", "image": "wasi", "command": list(words), "memory": 256,
                "dockerLabels": {"neargate.wasm.network": "host"},
                "logConfiguration": {"logDriver": "awslogs", "options": options}}])
            [task] = ecs.run_task(taskDefinition="net")["tasks"]
            ecs.get_waiter("tasks_stopped").wait(tasks=[task["taskArn"]], WaiterConfig={"Delay": 1})
            stream = f"p/main/{task['taskArn'].rsplit('/', 1)[1]}"
            events = logs.get_log_events(logGroupName="/net", logStreamName=stream)["events"]
            return "\n".join(event["message"] for event in events)

        own = [f"127.0.0.1:{server.endpoint.rsplit(':', 1)[1]}"]
        if listen.startswith("0.0.0.0"):
            own.append(own[0].replace("127.0.0.1", "127.0.0.2"))
        for address in own:
            assert "Permission denied" in said("connect", address)
            assert "Prohibited" in said("fetch", address, "/")
        with socket.create_server(("127.0.0.1", 0)) as other:
            other.settimeout(LIMIT_S)
            answers = threading.Thread(target=answer_once, args=[other])
            answers.start()
            assert said("connect", "127.0.0.1:%d" % other.getsockname()[1]) == "and good day"
            answers.join()
    finally:
        server.stop()


def answer_once(listener):
    connection, _ = listener.accept()
    with connection:
        connection.recv(100)
        connection.sendall(b"and good day\n")


@pytest.fixture(scope="module")
def open_server(server_directory):
    """A server whose tasks may have the host's network, with a guest that listens by itself."""
    server = Server(server_directory(), "--allow-host-network")
    try:
        server.neargate("image", "import", str(WASI), "--name", "wasi", "--data", str(server.data))
        server.client("ecs").create_cluster(clusterName=CLUSTER)
        yield server
    finally:
        server.stop()


HOST_NETWORK = {"neargate.wasm.network": "host"}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def start_listener(ecs, family, mapping, labels, listens_on):
    ecs.register_task_definition(family=family, networkMode="bridge", containerDefinitions=[{
        "name": "main", "image": "wasi", "memory": 64, "portMappings": [mapping], "dockerLabels": labels,
        "command": ["serve", f"127.0.0.1:{listens_on}"]}])
    answer = ecs.run_task(cluster=CLUSTER, taskDefinition=family)
    assert answer["failures"] == []
    return answer["tasks"][0]["taskArn"]


def wait_for_task(ecs, arn, status):
    ecs.get_waiter(status).wait(cluster=CLUSTER, tasks=[arn], WaiterConfig={"Delay": 1, "MaxAttempts": LIMIT_S})
    return ecs.describe_tasks(cluster=CLUSTER, tasks=[arn])["tasks"][0]


def ask(port, line):
    """What a listener answers; it may not listen yet."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as stream:
                stream.sendall(line)
                return stream.makefile("rb").read()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, f"nobody listens on port {port}"
            time.sleep(0.01)


@needs_service
@pytest.mark.parametrize("isolation", CLASSES[:2])
def test_a_program_with_the_hosts_network_listens_itself(open_server, family, isolation):
    ecs, port = open_server.client("ecs"), free_port()
    mapping = {"containerPort": port, "hostPort": port}
    arn = start_listener(ecs, family, mapping, {**HOST_NETWORK, ISOLATION: isolation}, port)
    task = wait_for_task(ecs, arn, "tasks_running")
    [binding] = task["containers"][0]["networkBindings"]
    assert (binding["hostPort"], binding["containerPort"]) == (port, port)
    assert [ask(port, b"one\n"), ask(port, b"two\n")] == [b"you said one\n", b"you said two\n"]
    ecs.stop_task(cluster=CLUSTER, task=arn)
    wait_for_task(ecs, arn, "tasks_stopped")


@needs_service
@pytest.mark.parametrize("mapping,labels,parts", [
    ({"containerPort": 80}, HOST_NETWORK, ["containerPort and hostPort that same number"]),
    ({"containerPort": 80}, {}, ["leave the port mapping or --http away", "neargate.wasm.network"]),
])
def test_a_program_that_is_no_handler_has_no_port(open_server, family, mapping, labels, parts):
    ecs = open_server.client("ecs")
    task = wait_for_task(ecs, start_listener(ecs, family, mapping, labels, 80), "tasks_stopped")
    assert task["stopCode"] == "TaskFailedToStart"
    for part in ["does not answer HTTP requests", "wasi:http/incoming-handler", *parts]:
        assert part in task["stoppedReason"], task["stoppedReason"]


@needs_service
@needs_root
def test_a_process_of_its_own_is_not_on_the_hosts_network(open_server, family):
    ecs, labels = open_server.client("ecs"), {**HOST_NETWORK, ISOLATION: "process"}
    mapping = {"containerPort": 80}
    task = wait_for_task(ecs, start_listener(ecs, family, mapping, labels, 80), "tasks_stopped")
    assert task["stopCode"] == "TaskFailedToStart"
    assert "the host's cannot be reached" in task["stoppedReason"], task["stoppedReason"]


# How it is checked.

@pytest.fixture(scope="session")
def checked(server, tmp_path_factory):
    """An image with a program that runs for ever and two functions."""
    path = tmp_path_factory.mktemp("wasm") / "checked.wasm"
    path.write_bytes(CHECKED)
    server.neargate("image", "import", str(path), "--name", "checked", "--data", str(server.data))
    return "checked"


@pytest.mark.parametrize("image,words,command,health", [
    ("probe", ["tick", "60000"], ["CMD", "probe", "exit", "0"], "HEALTHY"),
    ("probe", ["tick", "60000"], ["CMD", "probe", "exit", "1"], "UNHEALTHY"),
    ("probe", ["tick", "60000"], ["CMD-SHELL", "probe exit 0"], "HEALTHY"),
    ("checked", [], ["CMD", "healthy"], "HEALTHY"),
    ("checked", [], ["CMD", "sick"], "UNHEALTHY"),
])
def test_health(ecs, checked, bridge, until, until_stopped, image, words, command, health):
    arn = bridge({"name": "main", "image": image, "command": words, "stopTimeout": 2,
                  "healthCheck": {"command": command, "interval": 5, "timeout": 2, "retries": 1}},
                 cpu="256", memory="256")
    task = until(arn, lambda task: task["containers"][0].get("healthStatus") not in (None, "UNKNOWN"))
    assert (task["healthStatus"], task["containers"][0]["healthStatus"]) == (health, health)
    ecs.stop_task(cluster=CLUSTER, task=arn)
    until_stopped(arn)


def test_a_shell_is_not_there(bridge, until_stopped):
    task = until_stopped(bridge({"name": "main", "image": "probe", "command": ["tick", "60000"],
                                 "healthCheck": {"command": ["CMD-SHELL", "exit 0 || exit 1"]}}))
    assert task["stopCode"] == "TaskFailedToStart" and "has none" in task["stoppedReason"], task


# How it is stopped and limited.

@pytest.mark.parametrize("isolation", CLASSES)
@pytest.mark.parametrize("command", [["spin"], ["sleep", "60000"]])
def test_stop_ends_what_cannot_know(ecs, register, run, until, until_stopped, isolation, command):
    register(command, container={"stopTimeout": 30, "dockerLabels": {ISOLATION: isolation}})
    arn = run()["tasks"][0]["taskArn"]
    until(arn, is_running)
    asked = time.monotonic()
    ecs.stop_task(cluster=CLUSTER, task=arn, reason="enough")
    task = until_stopped(arn)
    assert time.monotonic() - asked < 20, "it is not waited for"
    assert (task["stopCode"], task["containers"][0]["exitCode"]) == ("UserInitiated", 143), task


@pytest.fixture
def stopping(ecs, logs, register, run, until, family):
    """Starts the program that knows when it is asked to end, asks it to, and tells what it says."""
    options = {"awslogs-group": f"/{family}", "awslogs-stream-prefix": "p", "awslogs-create-group": "true"}

    def said(arn):
        stream = f"p/main/{arn.rsplit('/', 1)[1]}"
        events = logs.get_log_events(logGroupName=f"/{family}", logStreamName=stream, startFromHead=True)["events"]
        return [event["message"] for event in events]

    def start(command, stop_timeout, isolation="shared"):
        register(command, image="stopping", container={
            "stopTimeout": stop_timeout, "dockerLabels": {ISOLATION: isolation},
            "logConfiguration": {"logDriver": "awslogs", "options": options}})
        arn = run()["tasks"][0]["taskArn"]
        until(arn, lambda task: is_running(task) and said(arn) == ["ready"])
        ecs.stop_task(cluster=CLUSTER, task=arn, reason="enough")
        return arn
    return start, said


@needs_stopping
@pytest.mark.parametrize("isolation", CLASSES)
@pytest.mark.parametrize("way", ["look", "wait"])
@pytest.mark.parametrize("code", [0, 1])  # A component has no others: its program returns well or not.
def test_stop_lets_a_guest_end_by_itself(stopping, until_stopped, isolation, way, code):
    start, said = stopping
    asked = time.monotonic()
    arn = start([way, str(code)], 30, isolation)
    task = until_stopped(arn)
    assert time.monotonic() - asked < 20, "it ends before its stop timeout"
    assert (task["stopCode"], task["stoppedReason"]) == ("UserInitiated", "enough"), task
    assert task["containers"][0]["exitCode"] == code, task
    assert said(arn) == ["ready", "asked false true"]


@needs_stopping
def test_stop_does_not_wait_for_a_guest_for_ever(stopping, until_stopped):
    start, said = stopping
    asked = time.monotonic()
    arn = start(["ignore"], 2)
    task = until_stopped(arn)
    assert time.monotonic() - asked >= 2, "it has its stop timeout"
    assert (task["stopCode"], task["containers"][0]["exitCode"]) == ("UserInitiated", 137), task
    assert said(arn) == ["ready"]


@pytest.mark.parametrize("isolation", CLASSES)
@pytest.mark.parametrize("limits", [{"container": {"memory": 64}}, {"memory": "512"}])
def test_memory_limits_mean_what_they_mean_for_containers(register, run, until_stopped, isolation, limits):
    limits = {**limits, "container": {"dockerLabels": {ISOLATION: isolation}, **limits.get("container", {})}}
    register(["grow"], **limits)
    [container] = until_stopped(run()["tasks"][0]["taskArn"])["containers"]
    assert container["exitCode"] == 137, container
    assert container["reason"] == "OutOfMemoryError: Container killed due to memory usage"


@pytest.mark.parametrize("isolation", CLASSES)
def test_cpu_is_shared_as_for_containers(register, run, debug, until_stopped, isolation):
    register(["spin"], container={"dockerLabels": {ISOLATION: isolation, "neargate.wasm.cpu-budget-ms": "400"}})
    arn = run()["tasks"][0]["taskArn"]
    until_stopped(arn)
    usage = json.loads(debug(arn, "--output", "json"))["containers"][0]["usage"]
    # With a quarter of a core, 400 ms of CPU time take 1.6 s; a busy machine makes it longer, nothing shorter.
    assert 400e6 <= usage["cpu_ns"] < 600e6, usage
    assert usage["run_ns"] > 1.2e9, usage


@pytest.mark.parametrize("isolation", CLASSES)
def test_cpu_budget(register, run, until_stopped, isolation):
    register(["spin"], container={"dockerLabels": {ISOLATION: isolation, "neargate.wasm.cpu-budget-ms": "100"}})
    [container] = until_stopped(run()["tasks"][0]["taskArn"])["containers"]
    assert container["exitCode"] == 137 and "CPU" in container["reason"], container


# What it leaves behind.

@pytest.mark.parametrize("isolation", CLASSES)
def test_debug_shows_a_trap(register, run, until_stopped, debug, tmp_path, isolation):
    register(["trap"], container={"dockerLabels": {ISOLATION: isolation}})
    arn = run()["tasks"][0]["taskArn"]
    reason = until_stopped(arn)["containers"][0]["reason"]
    assert "unreachable" in reason
    text = debug(arn)
    for part in ["unreachable", "Exit code", "CPU time", "Peak memory", f"isolation {isolation}", "frame"]:
        assert part in text, text
    [core] = json.loads(debug(arn, "--output", "json"))["artifacts"]
    assert (core["container"], core["name"]) == ("main", "core")
    assert core["core_dump"]["threads"][0]["frames"] and core["core_dump"]["memories_bytes"]
    debug(arn, "--core", str(tmp_path / "core"))
    assert (tmp_path / "core").stat().st_size == core["bytes"]
    assert (tmp_path / "core").read_bytes()[:4] == b"\0asm"


def listening(process):
    """The port of `neargate run --http`, which it says on standard error."""
    line = process.stderr.readline()
    while not line.startswith("listening "):
        assert line, "it ended before it listened"
        line = process.stderr.readline()
    return line.strip().rsplit(":", 1)[1]


def trap(port):
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(port, "/trap")
    assert caught.value.code == 500


@needs_service
@pytest.mark.parametrize("isolation", CLASSES)
def test_debug_shows_the_first_trap_of_a_handler_that_goes_on(
        ecs, bridge, until, until_stopped, debug, tmp_path, isolation):
    arn = bridge({"name": "web", "image": "service", "portMappings": [{"containerPort": 80}],
                  "dockerLabels": {ISOLATION: isolation}})
    port = until(arn, is_running)["containers"][0]["networkBindings"][0]["hostPort"]
    artifacts = lambda: json.loads(debug(arn, "--output", "json"))["artifacts"]
    assert get(port, "/count") == (200, "1\n")
    assert artifacts() == []
    trap(port)
    until(arn, lambda _: artifacts())
    [core] = artifacts()
    assert (core["container"], core["name"]) == ("web", "core")
    assert core["core_dump"]["threads"][0]["frames"] and core["core_dump"]["memories_bytes"]
    debug(arn, "--core", str(tmp_path / "first"))
    assert (tmp_path / "first").read_bytes()[:4] == b"\0asm"
    for _ in range(4):
        trap(port)
    assert get(port, "/count") == (200, "1\n"), "it goes on"
    ecs.stop_task(cluster=CLUSTER, task=arn)
    until_stopped(arn)
    assert len(artifacts()) == 1
    debug(arn, "--core", str(tmp_path / "last"))
    assert (tmp_path / "last").read_bytes() == (tmp_path / "first").read_bytes(), "the first one is kept"


@needs_service
def test_a_handler_has_no_profile(bridge, until_stopped):
    task = until_stopped(bridge({"name": "web", "image": "service", "portMappings": [{"containerPort": 80}],
                                 "dockerLabels": {"neargate.wasm.profile": "true"}}))
    assert task["stopCode"] == "TaskFailedToStart" and "neargate.wasm.profile" in task["stoppedReason"], task


def test_no_core_dump_when_none_is_wanted(register, run, until_stopped, debug):
    register(["trap"], container={"dockerLabels": {"neargate.wasm.core-dump": "false"}})
    arn = run()["tasks"][0]["taskArn"]
    until_stopped(arn)
    assert json.loads(debug(arn, "--output", "json"))["artifacts"] == []


def test_profile(register, run, until_stopped, debug, tmp_path):
    labels = {"neargate.wasm.profile": "true", "neargate.wasm.cpu-budget-ms": "300"}
    register(["spin"], container={"dockerLabels": labels}, cpu="1024", memory="2048")
    arn = run()["tasks"][0]["taskArn"]
    until_stopped(arn)
    debug(arn, "--profile", str(tmp_path / "profile.json"))
    profile = json.loads((tmp_path / "profile.json").read_text())
    assert profile["threads"][0]["samples"]["length"] > 0


def test_artifacts_are_for_those_who_sign(server, register, run, until_stopped):
    register(["trap"])
    arn = run()["tasks"][0]["taskArn"]
    until_stopped(arn)
    task = arn.rsplit("/", 1)[1]
    for path in [f"/v1/tasks/{task}", f"/v1/tasks/{task}/artifacts", f"/v1/tasks/{task}/artifacts/main/core"]:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{server.endpoint}{path}?cluster={CLUSTER}", timeout=10)
        assert caught.value.code == 403


def test_describe_shows_usage(server, register, run, until_stopped):
    register(["tick", "50"])
    arn = run()["tasks"][0]["taskArn"]
    until_stopped(arn)
    text = server.neargate("describe", arn, "--data", str(server.data), "--endpoint", server.endpoint)
    assert "INSTANTIATE" in text and "PEAK MEMORY" in text, text


# Without a server.

@pytest.fixture
def started(tmp_path):
    """Starts `neargate run`; what still runs is ended."""
    processes = []

    def started(*arguments):
        command = [BINARY, "run", "--data", str(tmp_path / "data"), *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield started
    for process in processes:
        process.kill()
        process.communicate()


@needs_service
@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
def test_run_answers_http_until_interrupted(started, interrupt):
    process = started("--http", "127.0.0.1:0", SERVICE)
    assert get(listening(process), "/count") == (200, "1\n")
    process.send_signal(interrupt)
    assert process.wait(timeout=20) == 0, process.stderr.read()


@pytest.mark.parametrize("arguments,part", [
    (["--http", "127.0.0.1:0", "--invoke", "f", MODULE], "cannot be used with"),
    (["--http", "127.0.0.1:0", "--profile", "profile.json", MODULE], "cannot be used with"),
    (["--reuse", "5", MODULE], "--http"),
    (["--grant", "wasi:nn", MODULE], "wasi:keyvalue"),
    (["--invoke", "greet", MODULE, "--", "Ada"], "quotes"),
    (["--core-dump", "/no/such/dir/core", MODULE], "/no/such/dir does not exist"),
])
def test_run_refuses_what_does_not_go_together(started, arguments, part):
    process = started(*arguments)
    output = process.communicate(timeout=20)
    assert process.returncode in (2, 125) and part in output[1], output


def test_run_keeps_a_core_dump(started, tmp_path):
    core = tmp_path / "core"
    process = started("--core-dump", core, MODULE, "--", "trap")
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 134
    assert core.read_bytes()[:4] == b"\0asm"


@needs_service
def test_run_keeps_a_core_dump_of_a_handler(started, tmp_path):
    core = tmp_path / "core"
    process = started("--http", "127.0.0.1:0", "--core-dump", core, SERVICE)
    port = listening(process)
    trap(port)
    trap(port)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0, process.stderr.read()
    assert core.read_bytes()[:4] == b"\0asm"
    # The handler runs on each core, and neither part knows what the other has left.
    said = process.stderr.read()
    assert 1 <= said.count("its core dump is kept unless another part") <= 2, said
    assert said.count("the core dump is in") == 1, said

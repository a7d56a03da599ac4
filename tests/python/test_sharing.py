"""What the containers of a task share where its definition says so: processes, message queues and shared memory."""

import pytest
from conftest import CLUSTER, needs_root

pytestmark = needs_root

# Waits for a sibling's process by its command line; the brackets keep it from finding itself.
FIND = "find() { until grep -lq \"$1\" /proc/[0-9]*/cmdline 2>/dev/null; do sleep 0.05; done; " \
       "grep -l \"$1\" /proc/[0-9]*/cmdline | head -n 1 | cut -d/ -f3; }; "
MAIN = "trap 'echo stopped-by-sibling; exit 6' USR1; echo ready; while :; do sleep 0.05; done"
SIDECAR = FIND + "main=$(find 'stopped-by-[s]ibling'); test $$ != 1 && cat /proc/1/comm && kill -USR1 $main"


def container(name, script, **more):
    return {"name": name, "image": "busybox", "command": ["sh", "-c", script], "memory": 32, **more}


@pytest.fixture
def outcome(ecs, family, subnet, until_stopped):
    """Registers and runs a task of containers; answers their exit codes by name, and the task."""
    def outcome(containers, **more):
        registered = ecs.register_task_definition(family=family, containerDefinitions=containers, **more)
        shown = ecs.describe_task_definition(taskDefinition=family)["taskDefinition"]
        for name, value in more.items():
            assert registered["taskDefinition"][name] == shown[name] == value
        request = {"launchType": "FARGATE", "networkConfiguration": {"awsvpcConfiguration": {"subnets": [subnet]}}} \
            if "FARGATE" in more.get("requiresCompatibilities", []) else {}
        answer = ecs.run_task(cluster=CLUSTER, taskDefinition=family, **request)
        assert not answer["failures"], answer
        task = until_stopped(answer["tasks"][0]["taskArn"])
        return {one["name"]: one.get("exitCode") for one in task["containers"]}, task
    return outcome


@pytest.mark.parametrize("where", [
    {},
    {"requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc", "cpu": "256", "memory": "512"},
], ids=["ec2", "fargate"])
def test_a_sidecar_signals_the_main_process(outcome, where):
    codes, task = outcome([container("main", MAIN), container("sidecar", SIDECAR, essential=False)],
                          pidMode="task", **where)
    assert codes == {"main": 6, "sidecar": 0}, task
    assert task["stopCode"] == "EssentialContainerExited"


def test_without_a_mode_each_sees_itself_alone(outcome):
    script = "test $$ = 1 && ! grep -l 'stopped-by-[s]ibling' /proc/[0-9]*/cmdline"
    codes, task = outcome([container("main", script, dependsOn=[{"containerName": "other", "condition": "START"}]),
                           container("other", MAIN, essential=False)])
    assert codes["main"] == 0, task


def test_the_end_of_a_container_takes_its_own_along(outcome):
    """What a container has left in the background ends with it, and its sibling goes on."""
    leaves = "setsid sh -c 'while :; do sleep 0.05; done; : left-by-sibling' & exit 3"
    looks = "! grep -l 'left-by-[s]ibling' /proc/[0-9]*/cmdline"
    codes, task = outcome([
        container("leaves", leaves, essential=False),
        container("looks", looks, dependsOn=[{"containerName": "leaves", "condition": "COMPLETE"}]),
    ], pidMode="task")
    assert codes == {"leaves": 3, "looks": 0}, task


def test_objects_are_shared_with_ipc_mode_task(outcome):
    one = "echo hello > /dev/shm/greeting && touch /dev/mqueue/queue"
    two = "test $(cat /dev/shm/greeting) = hello && test -e /dev/mqueue/queue && " \
          "test $(df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2) = 9216"
    first = [{"containerName": "one", "condition": "SUCCESS"}]
    shared = {"linuxParameters": {"sharedMemorySize": 9}}
    codes, task = outcome([container("one", one, essential=False), container("two", two, dependsOn=first, **shared)],
                          ipcMode="task")
    assert codes == {"one": 0, "two": 0}, task


@pytest.mark.parametrize("mode,script", [
    (None, "test -d /dev/shm && ! test -e /dev/shm/greeting && ! test -e /dev/mqueue/queue"),
    ("none", "! test -e /dev/shm && ! test -e /dev/mqueue/queue"),
])
def test_objects_are_a_containers_own_otherwise(outcome, mode, script):
    one = "touch /dev/mqueue/queue && { test ! -d /dev/shm || touch /dev/shm/greeting; }"
    first = [{"containerName": "one", "condition": "SUCCESS"}]
    codes, task = outcome([container("one", one, essential=False), container("two", script, dependsOn=first)],
                          **({"ipcMode": mode} if mode else {}))
    assert codes == {"one": 0, "two": 0}, task

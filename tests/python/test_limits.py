"""Limits and volumes of container tasks: what a definition says is what its containers meet."""

import pytest

from conftest import needs_root

pytestmark = needs_root


@pytest.fixture
def shell(register, run, until_stopped):
    """Runs a script as the only container of a task; returns the task when it has ended."""
    def shell(script, container=None, start=None, **more):
        register(["sh", "-c", script], image="busybox", container=container or {}, **more)
        return until_stopped(run(**(start or {}))["tasks"][0]["taskArn"])
    return shell


def exit_code(task, name="main"):
    codes = {container["name"]: container.get("exitCode") for container in task["containers"]}
    assert codes[name] is not None, task
    return codes[name]


def test_shared_memory_and_tmpfs(ecs, family, shell):
    linux = {"sharedMemorySize": 8, "initProcessEnabled": True, "tmpfs": [
        {"containerPath": "/small", "size": 2, "mountOptions": ["mode=700", "uid=7", "exec"]},
        {"containerPath": "/fixed", "size": 1, "mountOptions": ["ro"]}]}
    task = shell(
        "head -c 20000000 /dev/zero > /dev/shm/x 2>/dev/null; test $(busybox stat -c %s /dev/shm/x) = 8388608 || exit 1;"
        "head -c 20000000 /dev/zero > /small/x 2>/dev/null; test $(busybox stat -c %s /small/x) = 2097152 || exit 2;"
        "test $(busybox stat -c %a:%u /small) = 700:7 || exit 3; touch /fixed/x 2>/dev/null && exit 4; test $$ != 1 || exit 5",
        {"linuxParameters": linux})
    assert exit_code(task) == 0
    definition = ecs.describe_task_definition(taskDefinition=family)["taskDefinition"]
    assert definition["containerDefinitions"][0]["linuxParameters"] == linux


def test_swap_is_accepted_with_memory_alone(ecs, family, register, shell):
    with pytest.raises(ecs.exceptions.ClientException, match="maxSwap needs memory"):
        register(container={"linuxParameters": {"maxSwap": 8}})
    with pytest.raises(ecs.exceptions.ClientException, match="between 0 and 100"):
        register(container={"memory": 64, "linuxParameters": {"maxSwap": 8, "swappiness": 101}})
    assert exit_code(shell("exit 7", {"memory": 64, "linuxParameters": {"maxSwap": 8, "swappiness": 10}})) == 7


@pytest.mark.parametrize("options,part", [
    (["suid"], "suid"), (["dev"], "dev"), (["size=100%"], "tmpfs.size"), (["mode=4755"], "mode"), (["bind"], "bind")])
def test_row_35_refuses_tmpfs_options(ecs, register, options, part):
    tmpfs = [{"containerPath": "/t", "size": 1, "mountOptions": options}]
    with pytest.raises(ecs.exceptions.ClientException, match="Invalid 'tmpfs.mountOptions' setting") as caught:
        register(container={"linuxParameters": {"tmpfs": tmpfs}})
    assert part in str(caught.value)


def test_ulimits_reach_the_container(shell):
    ulimits = [{"name": "nofile", "softLimit": 100, "hardLimit": 200}, {"name": "nproc", "softLimit": 30, "hardLimit": 30}]
    script = "test $(ulimit -n) = 100 || exit 1; test $(ulimit -Hn) = 200 || exit 2; test $(ulimit -u) = 30 || exit 3"
    assert exit_code(shell(script, {"ulimits": ulimits})) == 0
    task = shell("exit 0", {"ulimits": [{"name": "rtprio", "softLimit": 1, "hardLimit": 1}]})
    assert task["stopCode"] == "TaskFailedToStart" and "real-time" in task["stoppedReason"], task


def test_row_67_all_of_a_container_ends_when_it_is_out_of_memory(shell):
    hog = "sh -c 'x=x; while :; do x=$x$x; done'; sleep 60; exit 1"
    task = shell(hog, {"memory": 32, "memoryReservation": 16})
    assert exit_code(task) == 137
    assert task["containers"][0]["reason"] == "OutOfMemoryError: Container killed due to memory usage"


DOCKER = {"scope": "shared", "autoprovision": True, "driver": "local", "labels": {"a": "b"}}


def test_named_volumes_outlive_tasks(ecs, family, shell):
    volume = {"name": family, "dockerVolumeConfiguration": DOCKER}
    mounted = {"mountPoints": [{"sourceVolume": family, "containerPath": "/data"}]}
    absent = {"name": family, "dockerVolumeConfiguration": {"scope": "shared"}}
    task = shell("exit 0", mounted, volumes=[absent])
    assert task["stopCode"] == "TaskFailedToStart" and "autoprovision" in task["stoppedReason"], task
    assert exit_code(shell("echo kept > /data/x", {**mounted, "user": "1000"}, volumes=[volume])) == 0
    definition = ecs.describe_task_definition(taskDefinition=family)["taskDefinition"]
    assert definition["volumes"] == [volume]
    assert exit_code(shell("test $(cat /data/x) = kept || exit 1; test $(busybox stat -c %u /data/x) = 1000 || exit 2",
                           mounted, volumes=[absent])) == 0
    read_only = {"mountPoints": [{**mounted["mountPoints"][0], "readOnly": True}]}
    assert exit_code(shell("touch /data/y 2>/dev/null && exit 1; exit 0", read_only, volumes=[volume])) == 0


def test_task_volumes_end_with_their_task(family, shell):
    for volume in ({"name": "v"}, {"name": "v", "dockerVolumeConfiguration": {"scope": "task"}}):
        mounted = {"mountPoints": [{"sourceVolume": "v", "containerPath": "/data"}]}
        for _ in range(2):
            assert exit_code(shell("test -e /data/x && exit 1; touch /data/x", mounted, volumes=[volume])) == 0


def test_volumes_from_another_container(ecs, family, run, until_stopped):
    containers = [
        {"name": "main", "image": "busybox", "volumesFrom": [{"sourceContainer": "side", "readOnly": True}],
         "dependsOn": [{"containerName": "side", "condition": "SUCCESS"}],
         "command": ["sh", "-c", "test $(cat /data/x) = shared || exit 1; touch /data/y 2>/dev/null && exit 2; exit 0"]},
        {"name": "side", "image": "busybox", "essential": False, "command": ["sh", "-c", "echo shared > /data/x"],
         "mountPoints": [{"sourceVolume": "v", "containerPath": "/data"}]}]
    definition = {"family": family, "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc", "cpu": "256",
                  "memory": "512", "volumes": [{"name": "v"}], "containerDefinitions": containers}
    ecs.register_task_definition(**definition)
    stored = ecs.describe_task_definition(taskDefinition=family)["taskDefinition"]["containerDefinitions"][0]
    assert stored["volumesFrom"] == containers[0]["volumesFrom"] and stored["mountPoints"] == []
    assert exit_code(until_stopped(run()["tasks"][0]["taskArn"])) == 0
    containers[1]["volumesFrom"] = [{"sourceContainer": "main"}]
    with pytest.raises(ecs.exceptions.ClientException, match="its own volumes"):
        ecs.register_task_definition(**definition)


@pytest.mark.parametrize("docker,part", [
    ({"scope": "task", "autoprovision": True}, "shared"), ({"driver": "nfs"}, "local"),
    ({"driverOpts": {"size": "1G"}}, "quotas"), ({"driverOpts": {"type": "nfs", "o": "addr=x"}}, "tmpfs"),
    ({"driverOpts": {"type": "tmpfs", "o": "size=0"}}, "size=0"),
    ({"driverOpts": {"type": "tmpfs", "o": "size=1m"}, "scope": "shared", "autoprovision": True}, "scope task")])
def test_refuses_docker_volumes(ecs, register, docker, part):
    with pytest.raises(ecs.exceptions.ClientException, match=part):
        register(volumes=[{"name": "v", "dockerVolumeConfiguration": docker}])


def test_volumes_in_memory_have_a_size(ecs, family, register, shell):
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=2m,uid=1000,mode=700"}
    volume = {"name": "m", "dockerVolumeConfiguration": {"driver": "local", "scope": "task", "driverOpts": options}}
    mounted = {"mountPoints": [{"sourceVolume": "m", "containerPath": "/data"}]}
    task = shell(
        "test $(busybox stat -c %u.%a /data) = 1000.700 || exit 1; head -c 9000000 /dev/zero > /data/x 2>/dev/null;"
        " test $(busybox stat -c %s /data/x) = 2097152", mounted, volumes=[volume])
    assert exit_code(task) == 0
    stored = ecs.describe_task_definition(taskDefinition=family)["taskDefinition"]
    assert stored["volumes"] == [volume]
    assert stored["containerDefinitions"][0]["mountPoints"] == mounted["mountPoints"]
    twice = {"mountPoints": [*mounted["mountPoints"], {"sourceVolume": "m", "containerPath": "/again"}]}
    with pytest.raises(ecs.exceptions.ClientException, match="mounted once"):
        register(container=twice, volumes=[volume])


def test_timeout_stops_the_task(ecs, family, register, shell):
    labels = {"neargate.timeout-s": "1"}
    task = shell("trap 'exit 9' TERM; while :; do sleep 0.1; done", {"dockerLabels": labels, "stopTimeout": 5})
    assert task["stoppedReason"] == "Task timed out: it ran for longer than its limit of 1 s"
    assert task["stopCode"] == "UserInitiated" and exit_code(task) == 9
    ran = task["stoppingAt"] - task["startedAt"]
    assert 0.9 <= ran.total_seconds() < 30, ran
    definition = ecs.describe_task_definition(taskDefinition=family)["taskDefinition"]
    assert definition["containerDefinitions"][0]["dockerLabels"] == labels
    with pytest.raises(ecs.exceptions.ClientException, match="neargate.timeout-s"):
        register(container={"dockerLabels": {"neargate.timeout-s": "soon"}})

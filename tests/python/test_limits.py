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
        "head -c 20000000 /dev/zero > /dev/shm/x 2>/dev/null; test $(stat -c %s /dev/shm/x) = 8388608 || exit 1;"
        "head -c 20000000 /dev/zero > /small/x 2>/dev/null; test $(stat -c %s /small/x) = 2097152 || exit 2;"
        "test $(stat -c %a:%u /small) = 700:7 || exit 3; touch /fixed/x 2>/dev/null && exit 4; test $$ != 1 || exit 5",
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
def test_refuses_tmpfs_options_35(ecs, register, options, part):
    tmpfs = [{"containerPath": "/t", "size": 1, "mountOptions": options}]
    with pytest.raises(ecs.exceptions.ClientException, match="Invalid 'tmpfs.mountOptions' setting") as caught:
        register(container={"linuxParameters": {"tmpfs": tmpfs}})
    assert part in str(caught.value)

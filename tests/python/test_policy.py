"""What the operator's policy allows, and that a definition does not outlive a stricter one."""

import json
import os
import socket
import threading
import time

import pytest
from botocore.exceptions import ClientError
from conftest import CLUSTER, FIXTURES, STOP_LIMIT_S, Server, needs_root

pytestmark = needs_root


def definition(family, script="true", container=None, **more):
    main = {"name": "main", "image": "busybox", "memory": 64, "command": ["sh", "-c", script], **(container or {})}
    return {"family": family, "containerDefinitions": [main], **more}


def run(ecs, family):
    answer = ecs.run_task(cluster=CLUSTER, taskDefinition=family)
    assert not answer["failures"]
    arn = answer["tasks"][0]["taskArn"]
    deadline = time.monotonic() + STOP_LIMIT_S
    while time.monotonic() < deadline:
        task = ecs.describe_tasks(cluster=CLUSTER, tasks=[arn])["tasks"][0]
        if task["lastStatus"] == "STOPPED":
            return task
        time.sleep(0.05)
    raise AssertionError(f"{family} did not stop: {task}")


def code(task):
    return task["containers"][0].get("exitCode"), task.get("stoppedReason"), task["containers"][0].get("reason")


def refused(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    assert caught.value.response["Error"]["Code"] == "ClientException"
    return caught.value.response["Error"]["Message"]


def host_volume(path, read_only):
    mount = {"sourceVolume": "v", "containerPath": "/v", "readOnly": read_only}
    return {"container": {"mountPoints": [mount]}, "volumes": [{"name": "v", "host": {"sourcePath": str(path)}}]}


LINUX = {"linuxParameters": {"capabilities": {"add": ["NET_ADMIN"]}}}
DEVICE = {"linuxParameters": {"devices": [{"hostPath": "/dev/zero", "containerPath": "/dev/mine",
                                           "permissions": ["read"]}]}}


@pytest.fixture
def start(server_directory):
    """Starts servers that are stopped after the test, one after the other, on one data directory."""
    directory = server_directory()
    servers = []

    def start(policy):
        for server in servers:
            server.stop()
        servers.clear()
        path = directory / "policy.json"
        path.write_text(json.dumps(policy))
        path.chmod(0o644)
        server = Server(directory, "--policy", str(path))
        servers.append(server)
        ecs = server.client("ecs")
        if not ecs.describe_clusters(clusters=[CLUSTER])["clusters"]:
            server.neargate("image", "pack", str(FIXTURES / "busybox"), "--name", "busybox",
                            "--entrypoint", "/bin/busybox", "--data", str(server.data))
            ecs.create_cluster(clusterName=CLUSTER)
        return ecs

    yield start
    for server in servers:
        server.stop()


def test_a_definition_does_not_outlive_a_stricter_policy(start, server_directory):
    outside = server_directory()
    static, data = outside / "static", outside / "data"
    for path in [static, data]:
        path.mkdir()
        path.chmod(0o777)
    (static / "file").write_text("found")
    os.chown(data, 1000, 1000)  # a directory of root is foreign to containers
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
    wanted = {
        "capability": definition("capability", "ip addr add 10.9.8.7/32 dev lo", LINUX),
        "privileged": definition("privileged", "mount -t tmpfs none /tmp", {"privileged": True}),
        "network": definition("network", f"nc -w 2 127.0.0.1 {port} </dev/null", networkMode="host"),
        "ipc": definition("ipc", "test $(readlink /proc/self/ns/ipc) = '" + os.readlink("/proc/self/ns/ipc") + "'",
                          ipcMode="host"),
        "pid": definition("pid", f"test -e /proc/{os.getpid()} && ! kill -0 {os.getpid()}", pidMode="host"),
        "device": definition("device", "test $(head -c 3 /dev/mine | wc -c) = 3 && ! echo x > /dev/mine", DEVICE),
        "read": definition("read", "test $(cat /v/file) = found", **host_volume(static, True)),
        "write": definition("write", "echo written > /v/out", **host_volume(data, False)),
    }
    ecs = start({
        "host_paths": [{"path": str(static), "access": "ro"}, {"path": str(data), "access": "rw"}],
        "capabilities": ["NET_ADMIN"],
        "privileged": ["privileged"],
        "host_namespaces": ["network", "ipc", "pid"],
        "devices": ["/dev/zero"],
    })
    message = refused(ecs.register_task_definition, **definition("other", **host_volume(static, False)))
    assert "readOnly" in message
    message = refused(ecs.register_task_definition, **definition("other", container={"privileged": True}))
    assert '"privileged"' in message and "--policy" in message
    for family, one in wanted.items():
        ecs.register_task_definition(**one)
        ended = code(run(ecs, family))
        assert ended[0] == 0, (family, ended)
    assert (data / "out").read_text() == "written\n"

    ecs = start({})
    for family, one in wanted.items():
        for message in [refused(ecs.run_task, cluster=CLUSTER, taskDefinition=family),
                        refused(ecs.register_task_definition, **one)]:
            assert "policy" in message, (family, message)
    ecs.register_task_definition(**definition("plain", "true"))
    assert code(run(ecs, "plain"))[0] == 0


def test_each_namespace_of_the_host_is_named_by_itself(start):
    modes = {"network": {"networkMode": "host"}, "ipc": {"ipcMode": "host"}, "pid": {"pidMode": "host"}}
    for allowed in modes:
        ecs = start({"host_namespaces": [allowed], "privileged": True, "capabilities": ["ALL"]})
        for name, mode in modes.items():
            if name == allowed:
                ecs.register_task_definition(**definition(name, **mode))
            else:
                assert next(iter(mode)) in refused(ecs.register_task_definition, **definition(name, **mode))


def test_a_policy_with_a_mistake_serves_nothing(server_directory):
    directory = server_directory()
    path = directory / "policy.json"
    path.write_text('{\n  "host_path": []\n}')
    with pytest.raises(AssertionError) as caught:
        Server(directory, "--policy", str(path))
    assert "host_path" in str(caught.value) and "line 2" in str(caught.value)

"""What a task is told of itself, and its credentials: from inside real tasks."""

import datetime
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
from conftest import BINARY, CLUSTER, FIXTURES, Server, needs_root
from test_iam import TASKS, iam, role, statement  # noqa: F401 (fixtures)
from test_network import interface

pytestmark = needs_root

TCP = "import socket, time\ns = socket.create_connection(('169.254.170.2', 80), 5)\n"


class Task:
    """A running task, and what its first container was told."""

    def __init__(self, arn, inside):
        self.arn, self.inside = arn, inside
        text, code = inside(arn, "env")
        assert code == 0, text
        self.environment = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        self.uri = self.environment["ECS_CONTAINER_METADATA_URI_V4"]

    def get(self, url, options=""):
        """What a URL answers; the text of a failure for one that refuses."""
        text, code = self.inside(self.arn, f"wget -q -O - {options} '{url}' 2>&1")
        return json.loads(text) if code == 0 else text.strip()

    def python(self, script):
        """Runs a script of Python, which the task's image does not have, in the task's network with its variables."""
        done = subprocess.run(["nsenter", "-t", str(self.pid()), "-n", sys.executable, "-c", script],
                              capture_output=True, text=True, timeout=60, env={**self.environment, "HOME": "/nonexistent"})
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def pid(self):
        """A process of the task on the host."""
        wanted = f"ECS_CONTAINER_METADATA_URI_V4={self.uri}".encode()
        for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
            try:
                if wanted in path.read_bytes().split(b"\0"):
                    return int(path.parent.name)
            except OSError:
                pass
        raise AssertionError("the task has no process")

    def status(self, request):
        """The status of the answer to a request as it is written."""
        return self.python(f"{TCP}try:\n s.sendall({request!r})\n print(s.recv(65536).split(b' ')[1].decode())\n"
                           "except ConnectionError: print('reset')")


@pytest.fixture
def start(vpc_task, until_running, inside):
    """Runs a task with these changes to its definition."""
    def start(**more):
        arn = vpc_task(["sh", "-c", "sleep 1000"], tags=[{"key": "colour", "value": "red"}], definition=more)
        until_running(arn)
        return Task(arn, inside)
    return start


def test_the_task_is_what_ecs_shows(ecs, ec2, start, family):
    task = start()
    shown = ecs.describe_tasks(cluster=CLUSTER, tasks=[task.arn])["tasks"][0]
    told = task.get(f"{task.uri}/task")
    own = interface(shown)
    subnet = ec2.describe_subnets(SubnetIds=[own["subnetId"]])["Subnets"][0]
    assert (told["TaskARN"], told["Family"], told["Revision"]) == (task.arn, family, "1")
    assert (told["Cluster"], told["LaunchType"]) == (shown["clusterArn"], "FARGATE")
    assert (told["DesiredStatus"], told["KnownStatus"]) == ("RUNNING", "RUNNING")
    assert told["Limits"] == {"CPU": 0.25, "Memory": 512} and told["VPCID"] == subnet["VpcId"]
    assert told["AvailabilityZone"] == shown["availabilityZone"] == subnet["AvailabilityZone"]
    assert "TaskTags" not in told and task.get(f"{task.uri}/taskWithTags")["TaskTags"] == {"colour": "red"}
    container = shown["containers"][0]
    main, = told["Containers"]
    assert main == task.get(task.uri) == task.get(task.environment["ECS_CONTAINER_METADATA_URI"])
    assert (main["Name"], main["Image"], main["ContainerARN"]) == ("main", "busybox", container["containerArn"])
    assert (main["DockerId"], main["ImageID"]) == (container["runtimeId"], container["imageDigest"])
    assert main["Labels"]["com.amazonaws.ecs.task-arn"] == task.arn
    network, = main["Networks"]
    assert network["IPv4Addresses"] == [own["privateIPv4Address"]] and network["MACAddress"] == own["macAddress"]
    assert network["PrivateDNSName"] == own["privateDnsName"]
    assert network["IPv4SubnetCIDRBlock"] == subnet["CidrBlock"]
    seen, _ = task.inside(task.arn, "ip -o -4 addr show dev eth0; cat /sys/class/net/eth0/address")
    assert f"inet {own['privateIPv4Address']}/32" in seen and own["macAddress"] in seen.split()
    assert task.environment["AWS_EXECUTION_ENV"] == "AWS_ECS_FARGATE"
    assert task.environment["AWS_REGION"] == "us-east-1"
    # Without a role there are no credentials, and no way to use any.
    assert not {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_ENDPOINT_URL"} & set(task.environment)


def test_stats_move(start):
    task = start()
    first = task.get(f"{task.uri}/stats")
    task.inside(task.arn, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    second = task.get(f"{task.uri}/stats")
    assert first["cpu_stats"]["cpu_usage"]["total_usage"] < second["cpu_stats"]["cpu_usage"]["total_usage"]
    assert second["precpu_stats"] == first["cpu_stats"] and second["preread"] == first["read"] < second["read"]
    assert second["cpu_stats"]["system_cpu_usage"] > first["cpu_stats"]["system_cpu_usage"]
    assert 0 < second["memory_stats"]["usage"] <= second["memory_stats"]["limit"] == 512 << 20
    assert second["pids_stats"]["current"] >= 1
    # It has received the answer to the first question in between.
    before, after = first["networks"]["eth0"], second["networks"]["eth0"]
    assert after["rx_bytes"] - before["rx_bytes"] > 500 and after["tx_packets"] > before["tx_packets"]
    assert second["network_rate_stats"]["rx_bytes_per_sec"] > 0
    every = task.get(f"{task.uri}/task/stats")
    assert list(every) == [task.get(task.uri)["DockerId"]]


def counts_blocks():
    """Whether the kernel counts what groups read and write. With cgroup v1 Linux 6.18 does so only where somebody has limited it."""
    v1 = pathlib.Path("/sys/fs/cgroup/blkio/blkio.throttle.io_service_bytes_recursive")
    return not v1.exists() or "Write" in v1.read_text()


def test_stats_tell_of_disks_memory_and_limits(start):
    task = start()
    task.inside(task.arn, "dd if=/dev/zero of=/file bs=1M count=8 conv=fsync 2>/dev/null; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
    stats = task.get(f"{task.uri}/stats")
    usage = stats["cpu_stats"]["cpu_usage"]
    split = usage["usage_in_usermode"] + usage["usage_in_kernelmode"]
    assert abs(split - usage["total_usage"]) < 50_000_000 and usage["usage_in_usermode"] > 0, usage
    assert set(stats["cpu_stats"]["throttling_data"]) == {"periods", "throttled_periods", "throttled_time"}
    assert len(stats["memory_stats"]["stats"]) > 10
    blocks = stats["blkio_stats"]
    if not counts_blocks():
        assert blocks["io_service_bytes_recursive"] is None, blocks
        return
    written = [one["value"] for one in blocks["io_service_bytes_recursive"] if one["op"] == "write"]
    assert sum(written) >= 8 << 20, blocks
    assert {"major", "minor", "op", "value"} == set(blocks["io_serviced_recursive"][0])


def test_the_clock_and_the_disk_of_a_task(start):
    task = start()
    task.inside(task.arn, "dd if=/dev/zero of=/file bs=1M count=8 2>/dev/null")
    told = task.get(f"{task.uri}/task")
    drift = told["ClockDrift"]
    assert drift["ClockSynchronizationStatus"] in ("SYNCHRONIZED", "NOT_SYNCHRONIZED")
    assert 0 <= drift["ClockErrorBound"] <= 16_000
    read = datetime.datetime.fromisoformat(drift["ReferenceTimestamp"])
    assert abs(datetime.datetime.now(datetime.timezone.utc) - read) < datetime.timedelta(seconds=10)
    # Measured every ten seconds.
    deadline = time.monotonic() + 20
    while told.get("EphemeralStorageMetrics", {"Utilized": 0})["Utilized"] < 8:
        assert time.monotonic() < deadline, told
        time.sleep(0.2)
        told = task.get(f"{task.uri}/task")
    assert told["EphemeralStorageMetrics"]["Reserved"] == 20 << 10


def test_a_task_has_the_credentials_of_its_role(server, start, role):  # noqa: F811
    arn = role(statement("ecs:ListClusters"), principal=TASKS)
    task = start(taskRoleArn=arn)
    url = f"http://169.254.170.2{task.environment['AWS_CONTAINER_CREDENTIALS_RELATIVE_URI']}"
    told = task.get(url)
    assert told["RoleArn"] == arn and told["AccessKeyId"].startswith("ASIA")
    assert told == task.get(url), "the same for a while"
    left = datetime.datetime.fromisoformat(told["Expiration"]) - datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(hours=3) < left <= datetime.timedelta(hours=6)
    # An SDK inside finds them, and the server, by itself.
    name, task_id = arn.rsplit("/", 1)[1], task.arn.rsplit("/", 1)[1]
    shown = task.python("import boto3; print(boto3.client('sts').get_caller_identity()['Arn'])")
    assert shown == f"arn:aws:sts::123456789012:assumed-role/{name}/{task_id}"
    assert json.loads(task.python("import boto3, json; print(json.dumps(boto3.client('ecs').list_clusters()['clusterArns']))"))
    refused = task.python(
        "import boto3\ntry:\n boto3.client('ecs').create_cluster(clusterName='x')\n"
        "except Exception as error: print(error.response['Error']['Code'])")
    assert refused == "AccessDeniedException"


def test_nobody_has_what_is_anothers(start, role):  # noqa: F811
    arn = role(statement("*"), principal=TASKS)
    one, other = start(taskRoleArn=arn), start(taskRoleArn=arn)
    host = "http://169.254.170.2"
    for url in [f"{other.uri}/task", other.uri, f"{other.uri}/stats", f"{host}/v4/", f"{host}/v4/x/task",
                f"{other.environment['ECS_AGENT_URI']}/task-protection/v1/state", f"{one.uri}/secrets", f"{host}/v1/tasks/x"]:
        assert "404" in one.get(url), url
    credentials = other.environment["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]
    assert "400" in one.get(host + credentials)
    assert "400" in one.get(f"{host}/v2/credentials/")
    assert other.get(host + credentials)["RoleArn"] == arn
    # Nor anything that another one has led it to send.
    assert "403" in one.get(one.uri, "--header 'X-Forwarded-For: 10.0.0.1'")
    path = one.uri.removeprefix(host)
    for request, status in [
        (f"GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n", "403"),
        (f"GET {path} HTTP/1.1\r\n\r\n", "403"),
        (f"POST {path} HTTP/1.1\r\nHost: 169.254.170.2\r\nContent-Length: 0\r\n\r\n", "405"),
        (f"DELETE {path} HTTP/1.1\r\nHost: 169.254.170.2\r\n\r\n", "405"),
        (f"GET {path} HTTP/1.1\r\nHost: 169.254.170.2\r\nA: {'a' * 100_000}\r\n\r\n", "431 reset"),
        ("GET / HTTP/1.1\r\nHost: 169.254.170.2\r\n\r\n", "404"),
        ("POST / HTTP/1.1\r\nHost: 169.254.170.2\r\nX-Amz-Target: AmazonEC2ContainerServiceV20141113.ListClusters\r\n"
         "Content-Length: 2\r\n\r\n{}", "400"),
    ]:
        assert one.status(request.encode()) in status.split(), request[:80]


def test_a_greedy_task_is_slowed_down_and_no_other(start):
    greedy, other = start(), start()
    ask = ("import http.client, os, time, urllib.parse\n"
           "url = urllib.parse.urlparse(os.environ['ECS_CONTAINER_METADATA_URI_V4'])\n"
           "c = http.client.HTTPConnection(url.hostname)\ncodes, began = [], time.monotonic()\n"
           "while codes.count(429) < 50:\n c.request('GET', url.path)\n r = c.getresponse()\n r.read()\n codes.append(r.status)\n"
           "print(codes.count(200), len(codes), time.monotonic() - began)")
    answered, asked, seconds = map(float, greedy.python(ask).split())
    assert answered + 50 == asked and 60 <= answered <= 60 + 40 * seconds + 1
    assert other.get(other.uri)["Name"] == "main"
    # Connections that say nothing are as many as it may have, and end by themselves.
    hold = ("import socket, time\nheld = [socket.create_connection(('169.254.170.2', 80), 5) for _ in range(40)]\n"
            "[s.sendall(b'GET / HTTP/1.1\\r\\n') for s in held[:20]]\ntime.sleep(1)\n"
            "def is_open(s):\n s.setblocking(False)\n try:\n  return s.recv(1) != b''\n"
            " except BlockingIOError: return True\n except OSError: return False\n"
            "print(sum(map(is_open, held)), flush=True)\ntime.sleep(11)\nprint(sum(map(is_open, held)))")
    process = subprocess.Popen(["nsenter", "-t", str(greedy.pid()), "-n", sys.executable, "-c", hold],
                               stdout=subprocess.PIPE, text=True)
    assert int(process.stdout.readline()) == 32
    started = time.monotonic()
    assert other.get(other.uri)["Name"] == "main" and time.monotonic() - started < 5
    assert int(process.communicate(timeout=30)[0]) == 0


def test_a_task_of_no_service_cannot_be_protected(ecs, start, role):  # noqa: F811
    allowed = role(statement(["ecs:GetTaskProtection", "ecs:UpdateTaskProtection"]), principal=TASKS)
    task = start(taskRoleArn=allowed)
    path = "/task-protection/v1/state"
    told = task.get(f"{task.environment['ECS_AGENT_URI']}{path}")
    assert told["failure"] == {"Arn": task.arn, "Reason": "TASK_NOT_VALID", "Detail": None}
    put = ("import http.client, os, urllib.parse\nurl = urllib.parse.urlparse(os.environ['ECS_AGENT_URI'])\n"
           "c = http.client.HTTPConnection(url.hostname)\n"
           f"c.request('PUT', url.path + '{path}', %r)\nr = c.getresponse()\nprint(r.status, r.read().decode())")
    assert task.python(put % '{"ProtectionEnabled":true,"ExpiresInMinutes":5}').startswith("200 ")
    assert task.python(put % "nonsense").startswith("400 ")
    for call in (ecs.get_task_protection, ecs.update_task_protection):
        more = {"protectionEnabled": True} if call == ecs.update_task_protection else {}
        failure, = call(cluster=CLUSTER, tasks=[task.arn], **more)["failures"]
        assert (failure["arn"], failure["reason"]) == (task.arn, "TASK_NOT_VALID")
    without = start()
    assert "403" in without.get(f"{without.environment['ECS_AGENT_URI']}{path}")


def test_a_server_that_restarts_answers_again(server_directory):
    directory = server_directory()
    first = Server(directory, "--vpc-block", "10.215.0.0/16")
    first.neargate("image", "pack", str(FIXTURES / "busybox"), "--name", "busybox", "--entrypoint", "/bin/busybox",
                   "--data", str(first.data))
    ecs, ec2 = first.client("ecs"), first.client("ec2")
    ecs.create_cluster(clusterName=CLUSTER)
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    container = {"name": "main", "image": "busybox", "command": ["sh", "-c", "sleep 1000"], "stopTimeout": 2}
    ecs.register_task_definition(family="f", networkMode="awsvpc", requiresCompatibilities=["FARGATE"], cpu="256",
                                 memory="512", containerDefinitions=[container])
    arn = ecs.run_task(cluster=CLUSTER, taskDefinition="f", launchType="FARGATE",
                       networkConfiguration={"awsvpcConfiguration": {"subnets": [subnet]}})["tasks"][0]["taskArn"]
    ecs.get_waiter("tasks_running").wait(cluster=CLUSTER, tasks=[arn], WaiterConfig={"Delay": 1, "MaxAttempts": 60})

    def ask(server):
        script = 'wget -q -O - "$ECS_CONTAINER_METADATA_URI_V4"'
        done = subprocess.run([BINARY, "exec", arn, "--", "/bin/busybox", "sh", "-c", script], capture_output=True,
                              text=True, env={**os.environ, **server.environment}, timeout=60)
        return done.stdout

    before = ask(first)
    first.process.kill()
    first.process.wait()
    second = Server(directory, "--vpc-block", "10.215.0.0/16")
    try:
        assert '"Name":"main"' in before
        deadline = time.monotonic() + 10
        while '"Name":"main"' not in ask(second):
            assert time.monotonic() < deadline, "the next server does not answer"
    finally:
        second.stop()

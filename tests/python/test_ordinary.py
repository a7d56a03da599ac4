"""Container tasks of a server that an ordinary user runs: what holds as with root, and what does not, by boto3."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
from conftest import BINARY, CLUSTER, FIXTURES, Server, needs_root

# To become another user; the server itself is not root.
pytestmark = needs_root

# A user whom every Linux has.
USER = 65534
# And one who has nothing else.
LONELY = 999999997
LIMIT_S = 30
ANSWER = "nc -ll -p 80 -e echo hello"


class Ordinary:
    """A server of an ordinary user, who has one image."""

    def __init__(self, directory, *arguments, user=USER):
        self.directory, self.arguments, self.user = directory, arguments, user
        # The directories of the build may be closed to others.
        self.binary = pathlib.Path(shutil.copy(BINARY, directory / "neargate"))
        root = shutil.copytree(FIXTURES / "busybox", directory / "busybox", symlinks=True)
        directory.chmod(0o755)
        os.chown(directory, user, user)
        self.start()
        self.server.neargate("image", "pack", str(root), "--name", "busybox", "--entrypoint", "/bin/busybox",
                             "--data", str(self.server.data))
        self.ecs.create_cluster(clusterName=CLUSTER)

    def start(self):
        self.server = Server(self.directory, *self.arguments, binary=self.binary, user=self.user)
        self.ecs, self.ec2, self.logs = (self.server.client(service) for service in ["ecs", "ec2", "logs"])

    def run(self, script, groups=()):
        """Runs a script in a task with an interface; answers its ARN."""
        options = {"awslogs-group": "/ordinary", "awslogs-stream-prefix": "p", "awslogs-create-group": "true"}
        definition = self.ecs.register_task_definition(
            family="ordinary", networkMode="awsvpc", requiresCompatibilities=["FARGATE"], cpu="256", memory="512",
            containerDefinitions=[{"name": "main", "image": "busybox", "command": ["sh", "-c", script], "stopTimeout": 2,
                                   "logConfiguration": {"logDriver": "awslogs", "options": options}}])
        network = {"subnets": [self.ec2.describe_subnets()["Subnets"][0]["SubnetId"]]}
        network |= {"securityGroups": list(groups)} if groups else {}
        answer = self.ecs.run_task(
            cluster=CLUSTER, taskDefinition=definition["taskDefinition"]["taskDefinitionArn"], launchType="FARGATE",
            networkConfiguration={"awsvpcConfiguration": network})
        assert not answer["failures"], answer
        return answer["tasks"][0]["taskArn"]

    def until(self, arn, *statuses):
        deadline = time.monotonic() + LIMIT_S
        while True:
            task = self.ecs.describe_tasks(cluster=CLUSTER, tasks=[arn])["tasks"][0]
            if task["lastStatus"] in statuses:
                return task
            assert time.monotonic() < deadline, task
            time.sleep(0.05)

    def stop(self, arn):
        self.ecs.stop_task(cluster=CLUSTER, task=arn)
        return self.until(arn, "STOPPED")

    def inside(self, arn, script):
        """What a script says inside a task."""
        command = [self.binary, "exec", arn, "--", "/bin/busybox", "sh", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, **self.server.identity,
                              env={**os.environ, **self.server.environment, "HOME": "/nonexistent"})
        return done.stdout.strip()

    def address(self, arn):
        return self.until(arn, "RUNNING")["containers"][0]["networkInterfaces"][0]["privateIpv4Address"]


@pytest.fixture(scope="module")
def user(server_directory):
    user = Ordinary(server_directory(), "--without-limits")
    try:
        yield user
    finally:
        user.server.stop()


@pytest.fixture
def running(user):
    """Runs scripts in tasks until the test ends."""
    arns = []

    def running(script, groups=()):
        arns.append(user.run(script, groups))
        user.until(arns[-1], "RUNNING")
        return arns[-1]

    yield running
    for arn in arns:
        user.stop(arn)


@pytest.fixture
def group(user):
    """Makes security groups, which go when their tasks have."""
    made = []

    def group(name):
        made.append(user.ec2.create_security_group(GroupName=f"{name}-{os.urandom(4).hex()}", Description=name)["GroupId"])
        return made[-1]
    return group


def test_tasks_run_and_end(user):
    arn = user.run("echo from inside; id -u; exit 7")
    ended = user.until(arn, "STOPPED")
    assert ended["containers"][0]["exitCode"] == 7, ended
    stream = f"p/main/{arn.rsplit('/', 1)[1]}"
    events = user.logs.get_log_events(logGroupName="/ordinary", logStreamName=stream, startFromHead=True)["events"]
    assert [event["message"] for event in events] == ["from inside", "0"]


def test_limits_that_nothing_enforces_are_refused(server_directory):
    strict = Ordinary(server_directory())
    try:
        ended = strict.until(strict.run("true"), "STOPPED")
        told = json.dumps([ended.get("stoppedReason"), ended["containers"][0].get("reason")])
        assert "--without-limits" in told, ended
        assert "exitCode" not in ended["containers"][0], ended
    finally:
        strict.server.stop()


def test_groups_hold(user, running, group):
    clients, servers = group("clients"), group("servers")
    address = user.address(running(ANSWER, [servers]))
    friend, stranger = running("sleep 1000", [clients]), running("sleep 1000", [group("strangers")])
    ask = f"nc -w 2 {address} 80"
    assert user.inside(friend, ask) == ""
    rule = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "UserIdGroupPairs": [{"GroupId": clients}]}
    user.ec2.authorize_security_group_ingress(GroupId=servers, IpPermissions=[rule])
    assert user.inside(friend, ask) == "hello"
    assert user.inside(stranger, ask) == ""


def test_names_and_metadata_are_told(user, running):
    one, other = running("sleep 1000"), running("sleep 1000")
    told = json.loads(user.inside(one, 'wget -q -O - "$ECS_CONTAINER_METADATA_URI_V4/task"'))
    assert told["TaskARN"] == one
    details = user.until(other, "RUNNING")["attachments"][0]["details"]
    name = next(detail["value"] for detail in details if detail["name"] == "privateDnsName")
    assert user.address(other) in user.inside(one, f"nslookup {name}")


def test_there_is_no_way_beyond(user, running):
    task = running("sleep 1000")
    listening = subprocess.Popen(["busybox", "nc", "-ll", "-p", "18080", "-e", "echo", "hello"])
    try:
        for address in ["127.0.0.1", "172.31.0.1", "169.254.1.1", "192.0.2.1"]:
            assert user.inside(task, f"nc -w 1 {address} 18080") == "", address
    finally:
        listening.kill()
        listening.wait()


def test_tasks_outlive_a_killed_server(user, running):
    arn = running("sleep 1000")
    user.server.process.send_signal(signal.SIGKILL)
    user.server.process.wait()
    user.start()
    assert user.until(arn, "RUNNING", "STOPPED")["lastStatus"] == "RUNNING"
    assert user.inside(arn, "echo alive") == "alive"


def processes_of(user):
    """The ids of a user's processes."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if path.stat().st_uid == user:
                found.append(path.name)
    return found


def test_nothing_is_left(server_directory):
    assert not processes_of(LONELY)
    gone = Ordinary(server_directory(), "--without-limits", user=LONELY)
    gone.until(gone.run("sleep 1000"), "RUNNING")
    assert processes_of(LONELY)
    gone.server.stop()
    deadline = time.monotonic() + LIMIT_S
    while left := processes_of(LONELY):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)

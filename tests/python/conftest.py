"""One real server for the session, reached with boto3 and the AWS CLI as any user would reach it."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import threading
import time
import uuid

import boto3
import pytest
from botocore.config import Config

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = os.environ.get("NEARGATE_BIN", str(TARGET / "release/neargate"))
FIXTURES = pathlib.Path(os.environ.get("NEARGATE_FIXTURES", TARGET / "fixtures"))
MODULE = FIXTURES / "probe-wasm32-wasip1.wasm"
SERVICE = TARGET / "guests/wasm32-wasip2/release/service.wasm"
WASI = SERVICE.with_name("wasi.wasm")
STOPPING = SERVICE.with_name("stopping.wasm")
THIRD = SERVICE.parent / "examples/third.wasm"
CLUSTER = "python"
STOP_LIMIT_S = 60

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="not root: container tasks cannot run")
needs_wasm = pytest.mark.skipif(not MODULE.exists(), reason="no compiler for wasm32-wasip1")
needs_stopping = pytest.mark.skipif(not STOPPING.exists(), reason=f"{STOPPING} is not built")
needs_guests = pytest.mark.skipif(not (WASI.exists() and THIRD.exists()), reason=f"{WASI} or {THIRD} is not built")
needs_service = pytest.mark.skipif(not SERVICE.exists(), reason=f"{SERVICE} is not built")


def pytest_terminal_summary(terminalreporter):
    """Skipped tests are said aloud, once each."""
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        terminalreporter.write_line(f"SKIPPED: {report.nodeid}: {reason}")


class Server:
    """A running `neargate serve` with data of its own, as this user unless another one's id is given."""

    def __init__(self, directory, *arguments, listen="127.0.0.1:0", binary=BINARY, user=None):
        self.data = directory / "data"
        self.log = directory / "server.log"
        self.binary = binary
        self.takes_any_credentials = "--dev" in arguments
        self.identity = {} if user is None else {"user": user, "group": user, "extra_groups": [], "cwd": "/"}
        command = [binary, "serve", "--listen", listen, "--data", str(self.data), *arguments]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, **self.identity)
        try:
            self._connect()
        except BaseException:
            self.process.kill()
            raise

    def _connect(self):
        self.endpoint = self._ready()
        # Nothing else is expected on stdout, but a pipe that nobody reads would stop a server that writes.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        if self.takes_any_credentials:
            self.environment = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any",
                                "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": self.endpoint}
        else:
            text = self.neargate("env", "--data", str(self.data), "--endpoint", self.endpoint)
            found = re.findall(r"(AWS_\w+)=(\S+)", text)
            self.environment = {name: value.strip("\"';") for name, value in found}
        self.environment |= {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
                             "AWS_EC2_METADATA_DISABLED": "true", "AWS_PAGER": ""}

    def _ready(self):
        line = self.process.stdout.readline()
        assert line.startswith("ready http://"), f"{line!r}\n{self.log.read_text()}"
        return line.split()[1].rstrip("/")

    def neargate(self, *arguments):
        done = subprocess.run([self.binary, *arguments], capture_output=True, text=True, timeout=60, **self.identity)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout

    def client(self, service, **options):
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=self.environment["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"max_attempts": 1}, max_pool_connections=100, **options),
        )

    def stop(self):
        self.process.send_signal(signal.SIGINT)  # with all tasks
        assert self.process.wait(timeout=10) == 0
        lines = self.log.read_text(errors="replace").splitlines()
        alarms = [line for line in lines if {"WARN", "ERROR"} & set(line.split()[:3])]
        assert not alarms, "unexpected lines in the server's log:\n" + "\n".join(alarms)


@pytest.fixture(scope="session")
def server_directory(tmp_path_factory):
    """Makes directories for servers."""
    def server_directory():
        directory = tmp_path_factory.mktemp("server")
        for path in [directory, *directory.parents][:3]:
            path.chmod(0o755)  # as /var/lib: the server may run as another user
        return directory
    return server_directory


@pytest.fixture(scope="session")
def server(server_directory):
    # Nobody answers for names there: what tasks ask for leaves the machine in no case.
    server = Server(server_directory(), "--vpc-block", "172.31.0.0/16", "--dns-server", "127.0.0.1:1")
    if MODULE.exists():
        server.neargate("image", "import", str(MODULE), "--name", "probe", "--data", str(server.data))
    if SERVICE.exists():
        server.neargate("image", "import", str(SERVICE), "--name", "service", "--data", str(server.data))
    if STOPPING.exists():
        server.neargate("image", "import", str(STOPPING), "--name", "stopping", "--data", str(server.data))
    if os.geteuid() == 0:
        server.neargate("image", "pack", str(FIXTURES / "busybox"), "--name", "busybox",
                        "--entrypoint", "/bin/busybox", "--data", str(server.data))
    server.client("ecs").create_cluster(clusterName=CLUSTER)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def ecs(server):
    return server.client("ecs")


@pytest.fixture(scope="session")
def logs(server):
    return server.client("logs")


@pytest.fixture
def family():
    """A family name that no other test has."""
    return f"f-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def register(ecs, family):
    def register(command=("exit", "0"), image="probe", **more):
        container = {"name": "main", "image": image, "command": list(command), **more.pop("container", {})}
        definition = {"family": family, "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc",
                      "cpu": "256", "memory": "512", "containerDefinitions": [container], **more}
        return ecs.register_task_definition(**definition)["taskDefinition"]
    return register


@pytest.fixture(scope="session")
def ec2(server):
    return server.client("ec2")


@pytest.fixture(scope="session")
def subnet(ec2):
    """The id of a subnet of the default VPC."""
    return ec2.describe_subnets()["Subnets"][0]["SubnetId"]


@pytest.fixture
def run(ecs, family, subnet):
    def run(**more):
        request = {"cluster": CLUSTER, "taskDefinition": family, "launchType": "FARGATE",
                   "networkConfiguration": {"awsvpcConfiguration": {"subnets": [subnet]}}, **more}
        return ecs.run_task(**request)
    return run


@pytest.fixture
def until_stopped(ecs):
    def until_stopped(arn, cluster=CLUSTER):
        deadline = time.monotonic() + STOP_LIMIT_S
        while time.monotonic() < deadline:
            answer = ecs.describe_tasks(cluster=cluster, tasks=[arn], include=["TAGS"])
            assert answer["failures"] == [], answer
            task = answer["tasks"][0]
            if task["lastStatus"] == "STOPPED":
                return task
            time.sleep(0.01)
        raise AssertionError(f"the task did not stop within {STOP_LIMIT_S} s: {task}")
    return until_stopped


@contextlib.contextmanager
def vpc_tasks(ecs, until_stopped):
    """Runs definitions in tasks with an interface; answers their ARNs. All are stopped at the end."""
    arns = []

    def run(definition, tags=(), **network):
        answer = ecs.run_task(cluster=CLUSTER, taskDefinition=definition, launchType="FARGATE", tags=list(tags),
                              networkConfiguration={"awsvpcConfiguration": network})
        assert not answer["failures"], answer
        arns.append(answer["tasks"][0]["taskArn"])
        return arns[-1]

    yield run
    for arn in arns:
        ecs.stop_task(cluster=CLUSTER, task=arn)
    for arn in arns:
        until_stopped(arn)


@pytest.fixture
def vpc_task(ecs, family, subnet, until_stopped):
    """Runs a command in a task with an interface; answers its ARN. All are stopped at the end."""
    def vpc_task(command, where=subnet, tags=(), definition=None, labels=None, **network):
        container = {"name": "main", "image": "busybox", "command": command, "stopTimeout": 2,
                     "dockerLabels": labels or {}}
        registered = ecs.register_task_definition(
            family=family, networkMode="awsvpc", requiresCompatibilities=["FARGATE"], cpu="256", memory="512",
            containerDefinitions=[container], **(definition or {}))
        revision = registered["taskDefinition"]["taskDefinitionArn"]
        return run(revision, tags, subnets=[where], **network)

    with vpc_tasks(ecs, until_stopped) as run:
        yield vpc_task


@pytest.fixture
def until_running(ecs):
    """Waits until a task runs."""
    def until_running(arn):
        waiter = ecs.get_waiter("tasks_running")
        waiter.wait(cluster=CLUSTER, tasks=[arn], WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    return until_running


@pytest.fixture
def inside(server):
    """Runs a script inside a task, in its first container unless another one is named; answers what it says and its exit code."""
    def inside(arn, script, container=None):
        named = ["-c", container] if container else []
        command = [BINARY, "exec", arn, *named, "--", "/bin/busybox", "sh", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **server.environment}, timeout=60)
        return done.stdout, done.returncode
    return inside

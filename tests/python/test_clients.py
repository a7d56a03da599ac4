"""Unmodified programs: the AWS CLI in both versions, and the SDK for JavaScript."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from conftest import CLUSTER, TARGET, needs_wasm

SMOKE = pathlib.Path(__file__).parents[1] / "js/smoke.mjs"
NPM = pathlib.Path(os.environ.get("NEARGATE_NPM", TARGET / "npm"))
CLI_1 = os.environ.get("NEARGATE_AWS_CLI_1", str(TARGET / "venv-awscli/bin/aws"))

pytestmark = needs_wasm


def clients():
    """Every AWS CLI there is, told apart by what it says of itself."""
    for major, path in [("1", CLI_1), ("2", "/usr/bin/aws")]:
        done = subprocess.run([path, "--version"], capture_output=True, text=True) if shutil.which(path) else None
        text = done.stdout + done.stderr if done else ""
        found = re.match(r"aws-cli/(\d+)\.", text)
        mark = [] if found and found[1] == major else [pytest.mark.skip(reason=f"no AWS CLI {major} at {path}")]
        yield pytest.param(path, id=f"v{major}", marks=mark)


@pytest.fixture
def run_aws(run_program, server):
    """Versions of the AWS CLI before 2.13 do not read AWS_ENDPOINT_URL, so that all are told."""
    def run_aws(aws, *arguments, **more):
        return run_program(aws, "--endpoint-url", server.endpoint, *arguments, **more)
    return run_aws


@pytest.fixture
def run_program(server):
    def run_program(*command, succeeds=True):
        environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **server.environment}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert (done.returncode == 0) == succeeds, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout if succeeds else done.stderr
    return run_program


@pytest.mark.parametrize("aws", list(clients()))
def test_aws_cli(run_aws, family, aws):
    def call(*arguments):
        return json.loads(run_aws(aws, *arguments, "--output", "json") or "null")

    container = [{"name": "main", "image": "probe", "command": ["echo", "from the CLI"], "logConfiguration": {
        "logDriver": "awslogs", "options": {"awslogs-group": f"/{family}", "awslogs-region": "us-east-1",
                                            "awslogs-stream-prefix": "p", "awslogs-create-group": "true"}}}]
    call("ecs", "register-task-definition", "--family", family, "--requires-compatibilities", "FARGATE",
         "--network-mode", "awsvpc", "--cpu", "256", "--memory", "512", "--container-definitions", json.dumps(container))
    subnet = call("ec2", "describe-subnets", "--filters", "Name=default-for-az,Values=true")["Subnets"][0]["SubnetId"]
    task = call("ecs", "run-task", "--cluster", CLUSTER, "--task-definition", family, "--launch-type", "FARGATE",
                "--network-configuration", f"awsvpcConfiguration={{subnets=[{subnet}]}}")["tasks"][0]
    call("ecs", "wait", "tasks-stopped", "--cluster", CLUSTER, "--tasks", task["taskArn"])
    stopped = call("ecs", "describe-tasks", "--cluster", CLUSTER, "--tasks", task["taskArn"])["tasks"][0]
    assert stopped["containers"][0]["exitCode"] == 0
    stream = f"p/main/{task['taskArn'].rsplit('/', 1)[1]}"
    events = call("logs", "get-log-events", "--log-group-name", f"/{family}", "--log-stream-name", stream)["events"]
    assert [event["message"] for event in events] == ["from the CLI"]
    assert call("sts", "get-caller-identity")["Account"] == "123456789012"


@pytest.mark.parametrize("aws", list(clients()))
def test_aws_cli_makes_networks(run_aws, family, aws):
    def call(*arguments):
        return json.loads(run_aws(aws, "ec2", *arguments, "--output", "json") or "null")

    vpc = call("create-vpc", "--cidr-block", "10.77.0.0/16", "--tag-specifications",
               f"ResourceType=vpc,Tags=[{{Key=Name,Value={family}}}]")["Vpc"]["VpcId"]
    call("wait", "vpc-available", "--vpc-ids", vpc)
    subnet = call("create-subnet", "--vpc-id", vpc, "--cidr-block", "10.77.1.0/24")["Subnet"]["SubnetId"]
    group = call("create-security-group", "--group-name", family, "--description", "web", "--vpc-id", vpc)["GroupId"]
    added = call("authorize-security-group-ingress", "--group-id", group, "--protocol", "tcp", "--port", "80-81",
                 "--cidr", "0.0.0.0/0")["SecurityGroupRules"]
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"], rule["CidrIpv4"]) for rule in added] == [
        ("tcp", 80, 81, "0.0.0.0/0")]
    found = call("describe-security-groups", "--filters", f"Name=group-name,Values={family}",
                 f"Name=vpc-id,Values={vpc}")["SecurityGroups"]
    assert found[0]["IpPermissions"][0]["IpRanges"] == [{"CidrIp": "0.0.0.0/0"}]
    text = run_aws(aws, "ec2", "delete-vpc", "--vpc-id", vpc, succeeds=False)
    assert "(DependencyViolation)" in text
    text = run_aws(aws, "ec2", "create-vpc", "--cidr-block", "10.78.0.0/16", "--dry-run", succeeds=False)
    assert "(DryRunOperation)" in text
    run_aws(aws, "ec2", "delete-security-group", "--group-id", group)
    run_aws(aws, "ec2", "delete-subnet", "--subnet-id", subnet)
    run_aws(aws, "ec2", "delete-vpc", "--vpc-id", vpc)


def test_aws_cli_1_reads_the_environment(run_program):
    if not shutil.which(CLI_1):
        pytest.skip(f"no AWS CLI 1 at {CLI_1}")
    assert json.loads(run_program(CLI_1, "ecs", "describe-clusters", "--clusters", CLUSTER))["clusters"]


@pytest.mark.parametrize("aws", list(clients()))
def test_aws_cli_shows_refusals(run_aws, aws):
    text = run_aws(aws, "ecs", "list-tasks", "--cluster", "absent", succeeds=False)
    assert "(ClusterNotFoundException)" in text and "Cluster not found." in text


@pytest.mark.skipif(shutil.which("node") is None or not NPM.joinpath("node_modules").exists(),
                    reason="no node or no SDK for JavaScript")
def test_sdk_for_javascript(run_program, server, family, register, subnet):
    register(["exit", "3"])
    # Node looks for packages beside the script, so that a copy of it is run where the SDK is.
    script = NPM / "smoke.mjs"
    shutil.copy(SMOKE, script)
    answer = json.loads(run_program("node", str(script), server.endpoint, CLUSTER, family, subnet))
    assert answer == {"accepted": "PROVISIONING", "exitCode": 3, "refusal": "ClusterNotFoundException"}

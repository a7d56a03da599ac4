"""What tasks are told of names, from inside of them: their own, the world's, and what is kept from them."""

import os
import re
import subprocess

import pytest
from conftest import BINARY, CLUSTER, FIXTURES, STOP_LIMIT_S, Server, needs_root
from upstream import Upstream

pytestmark = needs_root

RESOLVER = "169.254.169.253"


@pytest.fixture(scope="module")
def upstream():
    upstream = Upstream()
    upstream.addresses |= {
        "www.example.com": ["192.0.2.1", "192.0.2.2"],
        "many.example.com": [f"192.0.2.{last}" for last in range(1, 41)],
        "rebind.example.com": ["169.254.170.2", "127.0.0.1", "0.0.0.0"],
        "mixed.example.com": ["169.254.169.254", "10.1.2.3"],
        "end.example.com": ["192.0.2.9"],
    }
    upstream.aliases |= {"alias.example.com": "www.example.com", "l0.example.com": "l1.example.com"}
    upstream.aliases |= {f"l{link}.example.com": f"l{link + 1}.example.com" for link in range(1000)}
    yield upstream
    upstream.close()


@pytest.fixture(scope="module")
def dns_server(server_directory, upstream):
    """A server whose tasks' names are asked of `upstream`."""
    server = Server(server_directory(), "--vpc-block", "10.81.0.0/16", "--dns-server", upstream.address)
    server.neargate("image", "pack", str(FIXTURES / "busybox"), "--name", "busybox",
                    "--entrypoint", "/bin/busybox", "--data", str(server.data))
    server.client("ecs").create_cluster(clusterName=CLUSTER)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def task(dns_server):
    """A task that waits, and what it looks like."""
    ecs, ec2 = dns_server.client("ecs"), dns_server.client("ec2")
    ecs.register_task_definition(
        family="dns", networkMode="awsvpc", requiresCompatibilities=["FARGATE"], cpu="256", memory="512",
        containerDefinitions=[{"name": "main", "image": "busybox", "command": ["sleep", "1000"], "stopTimeout": 2}])
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    answer = ecs.run_task(cluster=CLUSTER, taskDefinition="dns", launchType="FARGATE",
                          networkConfiguration={"awsvpcConfiguration": {"subnets": [subnet]}})
    arn = answer["tasks"][0]["taskArn"]
    ecs.get_waiter("tasks_running").wait(cluster=CLUSTER, tasks=[arn],
                                         WaiterConfig={"Delay": 1, "MaxAttempts": STOP_LIMIT_S})
    yield ecs.describe_tasks(cluster=CLUSTER, tasks=[arn])["tasks"][0]
    ecs.stop_task(cluster=CLUSTER, task=arn)


@pytest.fixture(scope="module")
def inside(dns_server, task):
    def inside(script):
        done = subprocess.run([BINARY, "exec", task["taskArn"], "--", "/bin/busybox", "sh", "-c", script],
                              capture_output=True, text=True, env={**os.environ, **dns_server.environment}, timeout=60)
        return done.stdout + done.stderr, done.returncode
    return inside


@pytest.fixture(scope="module")
def look_up(inside):
    """What `nslookup` says of a name: its addresses, or what it finds instead."""
    def look_up(name, kind="a"):
        said, _ = inside(f"nslookup -type={kind} {name}")
        if "NXDOMAIN" in said:
            return "no name"
        return sorted(re.findall(r"^Address: (\S+)", said, re.M)) or said
    return look_up


def detail(task, name):
    return next(one["value"] for one in task["attachments"][0]["details"] if one["name"] == name)


def test_tasks_ask_the_resolver_of_their_vpc(dns_server, inside):
    said, code = inside("cat /etc/resolv.conf")
    assert code == 0 and f"nameserver {RESOLVER}" in said.splitlines()
    ec2 = dns_server.client("ec2")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    assert ec2.describe_vpc_attribute(VpcId=vpc, Attribute="enableDnsSupport")["EnableDnsSupport"] == {"Value": True}


def test_a_task_has_the_name_that_is_shown(task, look_up, upstream):
    address, name = detail(task, "privateIPv4Address"), detail(task, "privateDnsName")
    assert look_up(name) == [address]
    pointer = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    assert f"name = {name}" in look_up(pointer, "ptr")
    other = name.replace("ip-10-81", "ip-10-80")
    assert look_up(other) == "no name"
    assert not any("internal" in asked or "arpa" in asked for asked in upstream.asked)


def test_other_names_are_asked_of_the_host(look_up, upstream):
    before = len(upstream.asked)
    for _ in range(3):
        assert look_up("www.example.com") == ["192.0.2.1", "192.0.2.2"]
    assert len(upstream.asked) == before + 1, "and kept"
    assert "192.0.2.1" in look_up("alias.example.com")
    assert look_up("nobody.example.com") == "no name"


def test_long_answers_are_asked_for_again_over_tcp(inside):
    said, _ = inside("nslookup -type=a many.example.com")
    assert "192.0.2.40" not in said
    # What busybox has no program for, a shell has: the question with its length before it.
    question = r"\0\042\0\07\01\0\0\01\0\0\0\0\0\0\04many\07example\03com\0\0\01\0\01"
    said, code = inside(f"{{ printf '{question}'; sleep 2; }} | nc {RESOLVER} 53 | hexdump -v -e '1/1 \"%02x\"'")
    assert code == 0 and said.count("c00002") == 40, said


def test_row_84_addresses_of_the_task_itself_are_kept_back(look_up):
    for kept_back in ("169.254.170.2", "127.0.0.1", "0.0.0.0"):
        assert kept_back not in look_up("rebind.example.com")
    assert look_up("mixed.example.com") == ["10.1.2.3"]


def test_row_84_chains_end(look_up):
    said = look_up("l0.example.com")
    assert "SERVFAIL" in said, said


def test_nobody_else_is_answered(upstream):
    """The host itself has no way to the address, and nothing of it listens there."""
    assert subprocess.run(["ip", "-o", "addr", "show", "to", RESOLVER], capture_output=True, text=True).stdout == ""

"""Tasks under `bridge`: ports of the host, links and names, by boto3, from inside tasks and from the host."""

import signal
import socket
import subprocess
import time

import pytest
from botocore.exceptions import ClientError
from conftest import CLUSTER, FIXTURES, Server, needs_root

pytestmark = needs_root

ANSWER = "nc -ll -p 80 -e echo hello"


def container(name, script, **more):
    return {"name": name, "image": "busybox", "memory": 64, "command": ["sh", "-c", script], "stopTimeout": 2, **more}


def tcp(container_port, **more):
    return {"containerPort": container_port, **more}


@pytest.fixture
def register_bridge(ecs, family):
    """Registers a definition of these containers."""
    def register_bridge(*containers, **more):
        registered = ecs.register_task_definition(family=family, containerDefinitions=list(containers), **more)
        return registered["taskDefinition"]["taskDefinitionArn"]
    return register_bridge


@pytest.fixture
def running(ecs, register_bridge, until_running, until_stopped):
    """Runs a task of these containers; answers it once it runs. All are stopped at the end."""
    arns = []

    def running(*containers, definition=None):
        definition = definition or register_bridge(*containers, networkMode="bridge")
        answer = ecs.run_task(cluster=CLUSTER, taskDefinition=definition)
        assert not answer["failures"], answer
        arns.append(answer["tasks"][0]["taskArn"])
        until_running(arns[-1])
        return ecs.describe_tasks(cluster=CLUSTER, tasks=arns[-1:])["tasks"][0]

    yield running
    for arn in arns:
        ecs.stop_task(cluster=CLUSTER, task=arn)
    for arn in arns:
        until_stopped(arn)


def host_address():
    """An address of this machine by which others reach it: the one that it would use to reach them."""
    routes = subprocess.run(["ip", "-4", "route", "get", "192.0.2.1"], capture_output=True, text=True).stdout.split()
    if "src" in routes:
        return routes[routes.index("src") + 1]
    own = subprocess.run(["ip", "-o", "-4", "addr"], capture_output=True, text=True).stdout.split()
    return next(word.split("/")[0] for word in own if "/" in word and not word.startswith("127."))


def ask(address, port, seconds=10):
    """What a server says, which may need a moment to listen; nothing if there is none."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((address, port), timeout=1) as connection:
                return connection.makefile().read()
        except OSError:
            if time.monotonic() > deadline:
                return ""
            time.sleep(0.05)


def bindings(task, name):
    return next(one for one in task["containers"] if one["name"] == name)["networkBindings"]


def free_port():
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        return taken.getsockname()[1]


def test_ports_lead_to_containers_and_are_shown(running):
    port = free_port()
    task = running(container("web", ANSWER, portMappings=[tcp(80, hostPort=port), tcp(53, protocol="udp")]),
                   container("other", ANSWER, portMappings=[tcp(80)]))
    web, other = bindings(task, "web"), bindings(task, "other")
    assert [(one["containerPort"], one["protocol"], one["bindIP"]) for one in web] == [(80, "tcp", "0.0.0.0"), (53, "udp", "0.0.0.0")]
    assert web[0]["hostPort"] == port
    dynamic = other[0]["hostPort"]
    assert 61000 <= dynamic <= 65535 and dynamic != web[1]["hostPort"]
    # Both listen on port 80: each has a network of its own.
    assert ask(host_address(), port) == "hello\n"
    assert ask(host_address(), dynamic) == "hello\n"
    assert ask(host_address(), 80, seconds=0) == ""


def test_a_port_is_had_once_and_given_back(ecs, register_bridge, running, until_stopped):
    port = free_port()
    definition = register_bridge(container("web", ANSWER, portMappings=[tcp(80, hostPort=port)]))
    first = running(definition=definition)
    refused = ecs.run_task(cluster=CLUSTER, taskDefinition=definition)
    assert refused["tasks"] == [] and [one["reason"] for one in refused["failures"]] == ["RESOURCE:PORTS"]
    ecs.stop_task(cluster=CLUSTER, task=first["taskArn"])
    until_stopped(first["taskArn"])
    assert ask(host_address(), port, seconds=0) == ""
    assert ask(host_address(), bindings(running(definition=definition), "web")[0]["hostPort"]) == "hello\n"


def test_a_port_of_another_program_is_refused(ecs, register_bridge):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        definition = register_bridge(container("web", ANSWER, portMappings=[tcp(80, hostPort=port)]))
        refused = ecs.run_task(cluster=CLUSTER, taskDefinition=definition)
        assert [one["reason"] for one in refused["failures"]] == ["RESOURCE:PORTS"]
        assert f"another program has port {port}/tcp" in refused["failures"][0]["detail"]


def test_tasks_reach_each_other_by_ports_of_the_host_alone(running, inside):
    server = running(container("web", ANSWER, portMappings=[tcp(80)]))
    address, _ = inside(server["taskArn"], "ip -o -4 addr show dev eth0 | sed 's/.*inet //; s,/.*,,'", "web")
    client = running(container("web", "sleep 1000"))
    port = bindings(server, "web")[0]["hostPort"]
    assert ask(host_address(), port) == "hello\n"
    script = "nc -w 2 {} {} </dev/null"
    assert inside(client["taskArn"], script.format(host_address(), port), "web")[0] == "hello\n"
    assert inside(client["taskArn"], script.format(address.strip(), 80), "web")[0] == ""


def test_links_and_names(running, inside):
    task = running(
        container("web", ANSWER, links=["db:database"], hostname="front", dnsServers=["192.0.2.53"],
                  dnsSearchDomains=["example.org"], extraHosts=[{"hostname": "printer", "ipAddress": "192.0.2.7"}]),
        container("db", ANSWER, essential=False))
    said, _ = inside(task["taskArn"], "hostname; cat /etc/hosts /etc/resolv.conf", "web")
    lines = said.splitlines()
    assert lines[0] == "front" and "192.0.2.7\tprinter" in lines, said
    assert "nameserver 192.0.2.53" in lines and "search example.org" in lines, said
    assert any(line.endswith("\tdatabase db") for line in lines), said
    asked = "for i in 1 2 3 4 5; do nc -w 2 database 80 </dev/null | grep hello && exit; sleep 0.2; done"
    assert inside(task["taskArn"], asked, "web")[0] == "hello\n"
    back, _ = inside(task["taskArn"], "ip -o -4 addr show dev eth0 | sed 's/.*inet //; s,/.*,,'", "web")
    once = f"nc -w 1 {back.strip()} 80 </dev/null"
    assert inside(task["taskArn"], once, "web")[0] == "hello\n", "it listens"
    assert inside(task["taskArn"], once, "db")[0] == "", "a link leads one way"


@pytest.mark.parametrize("more, message", [
    ({"links": ["other"]}, "Links are not supported when networkMode=awsvpc."),
    ({"hostname": "a"}, "hostname is not supported on container when networkMode=awsvpc."),
    ({"extraHosts": [{"hostname": "a", "ipAddress": "192.0.2.1"}]}, "Extra hosts are not supported when networkMode=awsvpc."),
    ({"dnsServers": ["192.0.2.1"]}, "DNS servers are not supported on container when networkMode=awsvpc."),
])
def test_with_an_interface_names_are_refused(register_bridge, more, message):
    with pytest.raises(ClientError) as refused:
        register_bridge(container("web", "true", **more), networkMode="awsvpc")
    assert refused.value.response["Error"]["Message"] == message


def test_links_in_a_circle_are_refused(register_bridge):
    with pytest.raises(ClientError) as refused:
        register_bridge(container("a", "true", links=["b"]), container("b", "true", links=["a"]))
    assert refused.value.response["Error"]["Code"] == "ClientException"


def elements(address_or_port):
    """How many lines of the host's rules name something."""
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
    return sum(address_or_port in line for line in rules.splitlines())


def test_no_port_is_left_behind(ecs, register_bridge, until_stopped):
    port = free_port()
    definition = register_bridge(container("web", "true", portMappings=[tcp(80, hostPort=port)]))
    for _ in range(100):
        answer = ecs.run_task(cluster=CLUSTER, taskDefinition=definition)
        assert not answer["failures"], answer
        ended = until_stopped(answer["tasks"][0]["taskArn"])
        assert ended["containers"][0].get("exitCode") == 0, ended
    assert elements(f"tcp . {port} :") == 0
    with socket.socket() as free:
        free.bind(("0.0.0.0", port))


def test_ports_outlive_the_server(server_directory):
    """Killed with -9 and started again, a server finds its tasks where they were."""
    directory = server_directory()
    first = Server(directory)
    first.neargate("image", "pack", str(FIXTURES / "busybox"), "--name", "busybox", "--entrypoint", "/bin/busybox",
                   "--data", str(first.data))
    port = free_port()
    ecs = first.client("ecs")
    ecs.create_cluster(clusterName=CLUSTER)
    ecs.register_task_definition(family="web", containerDefinitions=[
        container("web", ANSWER, portMappings=[tcp(80, hostPort=port)])])
    arn = ecs.run_task(cluster=CLUSTER, taskDefinition="web")["tasks"][0]["taskArn"]
    assert ask(host_address(), port) == "hello\n"
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert ask(host_address(), port) == "hello\n"
    second = Server(directory)
    try:
        ecs = second.client("ecs")
        assert ask(host_address(), port) == "hello\n"
        refused = ecs.run_task(cluster=CLUSTER, taskDefinition="web")
        assert [one["reason"] for one in refused["failures"]] == ["RESOURCE:PORTS"]
        shown = ecs.describe_tasks(cluster=CLUSTER, tasks=[arn])["tasks"][0]
        assert bindings(shown, "web")[0]["hostPort"] == port
        ecs.stop_task(cluster=CLUSTER, task=arn)
        deadline = time.monotonic() + 30
        while ask(host_address(), port, seconds=0) or elements(f"tcp . {port} :"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        second.stop()


def test_ranges_have_ports_in_a_row(ecs, register_bridge, running, until_stopped):
    web = container("web", "nc -ll -p 8002 -e echo hello & nc -ll -p 8999 -e echo last",
                    portMappings=[{"containerPortRange": "8000-8999"}])
    other = container("other", "nc -ll -p 81 -e echo other", portMappings=[{"containerPortRange": "80-81"}])
    definition = register_bridge(web, other, networkMode="bridge")
    shown = ecs.describe_task_definition(taskDefinition=definition)["taskDefinition"]["containerDefinitions"][0]
    assert shown["portMappings"][0]["containerPortRange"] == "8000-8999"
    task = running(definition=definition)
    [one], [two] = bindings(task, "web"), bindings(task, "other")
    assert one["containerPortRange"] == "8000-8999" and two["containerPortRange"] == "80-81", (one, two)
    assert "containerPort" not in one and "hostPort" not in one, one
    first, last = map(int, one["hostPortRange"].split("-"))
    low, high = map(int, two["hostPortRange"].split("-"))
    assert 61000 <= first and last - first == 999 and high - low == 1 and (high < first or last < low), (one, two)
    address = host_address()
    assert [ask(address, first + 2), ask(address, last), ask(address, high)] == ["hello\n", "last\n", "other\n"]
    assert ask(address, first + 1, seconds=0) == ""
    # The rest of what may be given is no thousand in a row for long.
    answers = [ecs.run_task(cluster=CLUSTER, taskDefinition=definition) for _ in range(5)]
    reasons = [failure["reason"] for answer in answers for failure in answer["failures"]]
    arns = [one["taskArn"] for answer in answers for one in answer["tasks"]]
    assert len(arns) == 3 and set(reasons) == {"RESOURCE:PORTS"}, answers
    for arn in [*arns, task["taskArn"]]:
        ecs.stop_task(cluster=CLUSTER, task=arn)
        until_stopped(arn)
    assert ask(address, first + 2, seconds=0) == "" and elements(f"tcp . {first + 2} :") == 0

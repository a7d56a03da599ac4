"""The network of tasks: an address of their own, and groups that hold, by boto3 and from inside."""

import time

import pytest
from conftest import CLUSTER, needs_root

pytestmark = needs_root

SERVE = "while :; do nc -l -p 5432 -e echo hello; done & while :; do nc -l -p 80 -e echo hello; done & wait"


def ask(address, port):
    """A script that tells whether a server answers; one that is between two connections refuses."""
    once = f"nc -w 1 {address} {port} < /dev/null | grep -q hello"
    return f"for i in 1 2 3; do {once} && exit 0; sleep 0.1; done; exit 9"


@pytest.fixture
def group(ec2, subnet):
    """Makes security groups in the default VPC, which let everything out; they go when no task is in them."""
    vpc = ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"]
    made = []

    def group(name):
        made.append(ec2.create_security_group(GroupName=f"{name}-{time.time_ns()}", Description=name, VpcId=vpc)["GroupId"])
        return made[-1]

    yield group
    # Their rules may name each other.
    for one in made:
        found = ec2.describe_security_groups(GroupIds=[one])["SecurityGroups"][0]
        if found["IpPermissions"]:
            ec2.revoke_security_group_ingress(GroupId=one, IpPermissions=found["IpPermissions"])
    for one in made:
        ec2.delete_security_group(GroupId=one)


@pytest.fixture
def task(group, vpc_task):
    """Runs a script in a task with these security groups, which outlive it; answers its ARN."""
    return lambda script, groups: vpc_task(["sh", "-c", script], securityGroups=groups)


@pytest.fixture
def code(task, until_stopped):
    """Runs a script in a task to its end; answers its exit code."""
    def code(script, groups):
        ended = until_stopped(task(script, groups))
        return ended["containers"][0].get("exitCode")
    return code


@pytest.fixture
def running(ecs, task, until_running):
    """Runs a script in a task; answers the task once it runs."""
    def running(script, groups):
        arn = task(script, groups)
        until_running(arn)
        return ecs.describe_tasks(cluster=CLUSTER, tasks=[arn])["tasks"][0]
    return running


def interface(task):
    return {one["name"]: one["value"] for one in task["attachments"][0]["details"]}


def permission(port, **peer):
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **peer}


def test_a_task_has_the_address_that_is_shown(ec2, running, inside, group):
    shown = running("sleep 1000", [group("shown")])
    own = interface(shown)
    address, mac = own["privateIPv4Address"], own["macAddress"]
    assert shown["containers"][0]["networkInterfaces"][0]["privateIpv4Address"] == address
    found = ec2.describe_network_interfaces(NetworkInterfaceIds=[own["networkInterfaceId"]])["NetworkInterfaces"][0]
    assert (found["PrivateIpAddress"], found["MacAddress"], found["SubnetId"]) == (address, mac, own["subnetId"])
    script = "ip -o -4 addr show dev eth0; cat /sys/class/net/eth0/address; hostname; cat /etc/hosts"
    seen, _ = inside(shown["taskArn"], script)
    assert f"inet {address}/32" in seen and mac in seen.split(), seen
    assert own["privateDnsName"] in seen.split() and f"{address}\t{own['privateDnsName']}" in seen, seen


def test_groups_hold_and_change_at_once(ec2, running, code, group):
    clients, strangers, servers = group("clients"), group("strangers"), group("servers")
    address = interface(running(SERVE, [servers]))["privateIPv4Address"]
    assert code(ask(address, 5432), [clients]) == 9, "nothing is let in by itself"
    rule = permission(5432, UserIdGroupPairs=[{"GroupId": clients}])
    ec2.authorize_security_group_ingress(GroupId=servers, IpPermissions=[rule])
    assert code(ask(address, 5432), [clients]) == 0
    assert code(ask(address, 5432), [strangers, clients]) == 0, "in one of its groups"
    assert code(ask(address, 5432), [strangers]) == 9
    assert code(ask(address, 80), [clients]) == 9
    ec2.revoke_security_group_ingress(GroupId=servers, IpPermissions=[rule])
    assert code(ask(address, 5432), [clients]) == 9
    # What may not leave does not arrive.
    ec2.authorize_security_group_ingress(GroupId=servers, IpPermissions=[permission(80, IpRanges=[{"CidrIp": "0.0.0.0/0"}])])
    assert code(ask(address, 80), [strangers]) == 0
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    ec2.revoke_security_group_egress(GroupId=strangers, IpPermissions=everything)
    assert code(ask(address, 80), [strangers]) == 9


def test_the_default_group_lets_its_own_in(running, code):
    address = interface(running(SERVE, []))["privateIPv4Address"]
    assert code(ask(address, 80), []) == 0


def test_a_label_limits_the_bandwidth(ecs, family, running, vpc_task, until_running, inside):
    labels = {"neargate.network-mbps": "8"}
    address = interface(running("while :; do nc -l -p 99 -e wc -c; done", []))["privateIPv4Address"]
    limited, free = vpc_task(["sleep", "1000"], labels=labels), vpc_task(["sleep", "1000"])

    def seconds(task):
        until_running(task)
        begun = time.monotonic()
        assert inside(task, f"head -c 4000000 /dev/zero | nc {address} 99")[0] == "4000000\n"
        return time.monotonic() - begun

    # A second's worth, 1 MB, passes at once.
    took = seconds(limited)
    assert took > 1.5 and seconds(free) * 2 < took, took
    definition = ecs.describe_tasks(cluster=CLUSTER, tasks=[limited])["tasks"][0]["taskDefinitionArn"]
    container = ecs.describe_task_definition(taskDefinition=definition)["taskDefinition"]["containerDefinitions"][0]
    assert container["dockerLabels"] == labels


def test_a_wrong_limit_of_the_bandwidth_is_refused(ecs, register):
    for value, more, why in [("0", {}, "between 1 and 100000"), ("fast", {}, "between 1 and 100000"),
                             ("8", {"networkMode": "bridge", "requiresCompatibilities": []}, "awsvpc only")]:
        with pytest.raises(ecs.exceptions.ClientException, match=f"neargate.network-mbps.*{why}"):
            register(container={"dockerLabels": {"neargate.network-mbps": value}}, **more)


def test_a_rule_reaches_tasks_that_run(ec2, running, inside, group):
    """A change is enforced before its answer comes."""
    clients, servers = group("clients"), group("servers")
    address = interface(running(SERVE, [servers]))["privateIPv4Address"]
    client = running("sleep 1000", [clients])["taskArn"]
    for _ in range(3):
        rule = permission(80, UserIdGroupPairs=[{"GroupId": clients}])
        ec2.authorize_security_group_ingress(GroupId=servers, IpPermissions=[rule])
        assert inside(client, ask(address, 80))[1] == 0
        ec2.revoke_security_group_ingress(GroupId=servers, IpPermissions=[rule])
        assert inside(client, ask(address, 80))[1] == 9


def test_a_subnet_without_an_address_left(ec2, ecs, family, until_stopped):
    vpc = ec2.create_vpc(CidrBlock="10.213.0.0/28")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.213.0.0/28")["Subnet"]["SubnetId"]
    ecs.register_task_definition(
        family=family, networkMode="awsvpc", requiresCompatibilities=["FARGATE"], cpu="256", memory="512",
        containerDefinitions=[{"name": "main", "image": "busybox", "command": ["sleep", "1000"],
                               "stopTimeout": 2}])
    request = {"cluster": CLUSTER, "taskDefinition": family, "launchType": "FARGATE",
               "networkConfiguration": {"awsvpcConfiguration": {"subnets": [subnet]}}}
    # Sixteen addresses, of which a VPC keeps five.
    first = ecs.run_task(count=10, **request)
    second = ecs.run_task(count=2, **request)
    assert [len(one["tasks"]) for one in (first, second)] == [10, 1]
    assert [failure["reason"] for failure in second["failures"]] == ["RESOURCE:ENI"]
    arns = [task["taskArn"] for task in first["tasks"] + second["tasks"]]

    def shown():
        return [interface(task) for part in (arns[:6], arns[6:])
                for task in ecs.describe_tasks(cluster=CLUSTER, tasks=part)["tasks"]]

    deadline = time.monotonic() + 20
    while not all("privateIPv4Address" in one for one in shown()):
        assert time.monotonic() < deadline, shown()
        time.sleep(0.05)
    addresses = {one["privateIPv4Address"] for one in shown()}
    assert len(addresses) == 11 and all(address.startswith("10.213.0.") for address in addresses)
    for arn in arns:
        ecs.stop_task(cluster=CLUSTER, task=arn)
    for arn in arns:
        until_stopped(arn)
    ec2.delete_subnet(SubnetId=subnet)
    ec2.delete_vpc(VpcId=vpc)

"""IPv6: VPCs and subnets that have it, and the addresses of tasks there."""

import ipaddress
import json

import pytest
from conftest import CLUSTER, needs_root
from errors import refused

SERVE = "while :; do nc -l -p 80 -e echo hello; done"


@pytest.fixture
def vpc(ec2):
    """A VPC with a block of IPv6, and its block."""
    made = ec2.create_vpc(CidrBlock="10.66.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]
    yield made["VpcId"], made["Ipv6CidrBlockAssociationSet"][0]
    inside = [{"Name": "vpc-id", "Values": [made["VpcId"]]}]
    for group in ec2.describe_security_groups(Filters=inside)["SecurityGroups"]:
        if group["GroupName"] != "default":
            ec2.delete_security_group(GroupId=group["GroupId"])
    for subnet in ec2.describe_subnets(Filters=inside)["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    ec2.delete_vpc(VpcId=made["VpcId"])


@pytest.fixture
def dual_subnet(ec2, vpc):
    """A subnet with both, and its block of IPv6."""
    block = part(vpc[1]["Ipv6CidrBlock"], 1)
    made = ec2.create_subnet(VpcId=vpc[0], CidrBlock="10.66.1.0/24", Ipv6CidrBlock=block)["Subnet"]
    return made["SubnetId"], made["Ipv6CidrBlockAssociationSet"][0]


@pytest.fixture
def running(ecs, dual_subnet, vpc_task, until_running):
    """Runs a script in a task in a subnet, which goes after it; answers the task once it runs."""
    def running(script, where, **network):
        arn = vpc_task(["sh", "-c", script], where=where, **network)
        until_running(arn)
        return ecs.describe_tasks(cluster=CLUSTER, tasks=[arn])["tasks"][0]
    return running


def part(block, number):
    return str(list(ipaddress.ip_network(block).subnets(new_prefix=64))[number])


def details(task):
    return {one["name"]: one["value"] for one in task["attachments"][0]["details"]}


def reach(address):
    once = f"nc -w 1 {address} 80 < /dev/null | grep -q hello"
    return f"for i in 1 2 3; do {once} && exit 0; sleep 0.1; done; exit 9"


def test_blocks_are_associated_and_taken_back(ec2, vpc):
    vpc, association = vpc
    block = ipaddress.ip_network(association["Ipv6CidrBlock"])
    assert (block.prefixlen, block.is_private) == (56, True) and block.subnet_of(ipaddress.ip_network("fd00::/8"))
    assert association["Ipv6CidrBlockState"] == {"State": "associated"} and association["Ipv6Pool"] == "Amazon"
    with refused("CidrLimitExceeded"):
        ec2.associate_vpc_cidr_block(VpcId=vpc, AmazonProvidedIpv6CidrBlock=True)
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.66.2.0/24")["Subnet"]
    assert subnet["Ipv6CidrBlockAssociationSet"] == []
    subnet = subnet["SubnetId"]
    for wrong in ["fd00::/64", str(block)]:
        with refused("InvalidSubnet.Range"):
            ec2.associate_subnet_cidr_block(SubnetId=subnet, Ipv6CidrBlock=wrong)
    own = part(str(block), 255)
    answer = ec2.associate_subnet_cidr_block(SubnetId=subnet, Ipv6CidrBlock=own)
    of_subnet = answer["Ipv6CidrBlockAssociation"]
    assert (answer["SubnetId"], of_subnet["Ipv6CidrBlock"]) == (subnet, own)
    found = ec2.describe_subnets(Filters=[{"Name": "ipv6-cidr-block-association.ipv6-cidr-block", "Values": [own]}])
    assert [one["SubnetId"] for one in found["Subnets"]] == [subnet]
    with refused("InvalidSubnet.Conflict"):
        ec2.create_subnet(VpcId=vpc, CidrBlock="10.66.3.0/24", Ipv6CidrBlock=own)
    assert len(ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]) == 1
    with refused("DependencyViolation"):
        ec2.disassociate_vpc_cidr_block(AssociationId=association["AssociationId"])
    taken = ec2.disassociate_subnet_cidr_block(AssociationId=of_subnet["AssociationId"])
    assert taken["Ipv6CidrBlockAssociation"]["Ipv6CidrBlockState"]["State"] == "disassociated"
    with refused("InvalidSubnetCidrBlockAssociationID.NotFound"):
        ec2.disassociate_subnet_cidr_block(AssociationId=of_subnet["AssociationId"])
    taken = ec2.disassociate_vpc_cidr_block(AssociationId=association["AssociationId"])
    assert taken["VpcId"] == vpc
    assert ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"][0]["Ipv6CidrBlockAssociationSet"] == []
    with refused("InvalidSubnet.Range"):
        ec2.associate_subnet_cidr_block(SubnetId=subnet, Ipv6CidrBlock=own)
    again = ec2.associate_vpc_cidr_block(VpcId=vpc, AmazonProvidedIpv6CidrBlock=True)["Ipv6CidrBlockAssociation"]
    assert again["AssociationId"] != association["AssociationId"]


def test_groups_let_everything_out_by_both(ec2, vpc):
    everywhere = [{"CidrIp": "0.0.0.0/0"}], [{"CidrIpv6": "::/0"}]
    default = ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [vpc[0]]}])["SecurityGroups"][0]
    new = ec2.create_security_group(GroupName="new", Description="new", VpcId=vpc[0])["GroupId"]
    new = ec2.describe_security_groups(GroupIds=[new])["SecurityGroups"][0]
    ec2.delete_security_group(GroupId=new["GroupId"])
    for group in [default, new]:
        ranges = [one["IpRanges"] + one["Ipv6Ranges"] for one in group["IpPermissionsEgress"]]
        assert sum(ranges, []) == everywhere[0] + everywhere[1], group


@needs_root
def test_a_task_has_the_ipv6_address_that_is_shown(ec2, running, inside, dual_subnet):
    subnet, association = dual_subnet
    shown = running("sleep 1000", subnet)
    own = details(shown)
    address = own["ipv6Address"]
    block = ipaddress.ip_network(association["Ipv6CidrBlock"])
    assert ipaddress.ip_address(address) in block
    assert shown["containers"][0]["networkInterfaces"][0]["ipv6Address"] == address
    found = ec2.describe_network_interfaces(Filters=[{"Name": "ipv6-addresses.ipv6-address", "Values": [address]}])
    assert [one["NetworkInterfaceId"] for one in found["NetworkInterfaces"]] == [own["networkInterfaceId"]]
    assert found["NetworkInterfaces"][0]["Ipv6Addresses"] == [{"Ipv6Address": address}]
    seen, _ = inside(shown["taskArn"], "ip -o -6 addr show dev eth0; wget -qO - $ECS_CONTAINER_METADATA_URI_V4")
    line, told = seen.split("\n", 1)
    assert f"inet6 {address}/128 scope global" in line and "fe80" not in line, seen
    network = json.loads(told)["Networks"][0]
    assert (network["IPv6Addresses"], network["IPv6SubnetCIDRBlock"]) == ([address], str(block))


@needs_root
def test_groups_hold_for_ipv6(ec2, running, inside, dual_subnet, vpc):
    subnet = dual_subnet[0]
    made = [ec2.create_security_group(GroupName=name, Description=name, VpcId=vpc[0])["GroupId"]
            for name in ("servers", "clients")]
    server = details(running(SERVE, subnet, securityGroups=made[:1]))
    client = running("sleep 1000", subnet, securityGroups=made[1:])["taskArn"]

    def reached():
        return [inside(client, reach(server[name]))[1] == 0 for name in ("privateIPv4Address", "ipv6Address")]
    assert reached() == [False, False]
    for peer, expect in [({"Ipv6Ranges": [{"CidrIpv6": "::/0"}]}, [False, True]),
                         ({"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}, [True, False]),
                         ({"UserIdGroupPairs": [{"GroupId": made[1]}]}, [True, True])]:
        rule = [{"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, **peer}]
        ec2.authorize_security_group_ingress(GroupId=made[0], IpPermissions=rule)
        assert reached() == expect, peer
        ec2.revoke_security_group_ingress(GroupId=made[0], IpPermissions=rule)
        assert reached() == [False, False], peer


@needs_root
def test_the_account_setting_decides(ecs, running, inside, dual_subnet):
    effective = ecs.list_account_settings(name="dualStackIPv6", effectiveSettings=True)["settings"]
    assert [one["value"] for one in effective] == ["enabled"]
    ecs.put_account_setting_default(name="dualStackIPv6", value="disabled")
    try:
        without = running("sleep 1000", dual_subnet[0])
        assert "ipv6Address" not in details(without)
        assert inside(without["taskArn"], "cat /proc/net/if_inet6 | grep -c eth0")[0].strip() == "0"
        ecs.put_account_setting(name="dualStackIPv6", value="enabled")
        assert "ipv6Address" in details(running("sleep 1000", dual_subnet[0]))
    finally:
        for principal in [{}, {"principalArn": "arn:aws:iam::123456789012:root"}]:
            ecs.delete_account_setting(name="dualStackIPv6", **principal)


@needs_root
def test_a_block_in_use_stays(ec2, ecs, running, until_stopped, dual_subnet):
    subnet, association = dual_subnet
    task = running("sleep 1000", subnet)
    with refused("DependencyViolation"):
        ec2.disassociate_subnet_cidr_block(AssociationId=association["AssociationId"])
    ecs.stop_task(cluster=CLUSTER, task=task["taskArn"])
    until_stopped(task["taskArn"])
    ec2.disassociate_subnet_cidr_block(AssociationId=association["AssociationId"])
    assert "ipv6Address" not in details(running("sleep 1000", subnet))

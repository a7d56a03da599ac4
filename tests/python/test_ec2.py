"""EC2: networks of tasks, as boto3 sees them."""

import ipaddress
import time
import uuid

import pytest
from botocore.exceptions import WaiterError

from conftest import CLUSTER, STOP_LIMIT_S, Server, needs_wasm
from errors import refused

HTTP = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "web"}]}


@pytest.fixture(scope="module")
def blocks():
    """Blocks that no VPC has."""
    return (f"10.{number}.0.0/16" for number in range(100, 200))


@pytest.fixture
def vpc(ec2, blocks):
    """A VPC of the test's own, removed with all that is in it."""
    made = ec2.create_vpc(CidrBlock=next(blocks))["Vpc"]
    yield made
    mine = [{"Name": "vpc-id", "Values": [made["VpcId"]]}]
    for subnet in ec2.describe_subnets(Filters=mine)["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    groups = ec2.describe_security_groups(Filters=mine)["SecurityGroups"]
    for group in groups:
        for direction, permissions in [("ingress", group["IpPermissions"]), ("egress", group["IpPermissionsEgress"])]:
            if permissions:
                getattr(ec2, f"revoke_security_group_{direction}")(GroupId=group["GroupId"], IpPermissions=permissions)
    for group in groups:
        if group["GroupName"] != "default":
            ec2.delete_security_group(GroupId=group["GroupId"])
    ec2.delete_vpc(VpcId=made["VpcId"])


@pytest.fixture
def group(ec2, vpc):
    return ec2.create_security_group(GroupName="web", Description="for a test", VpcId=vpc["VpcId"])["GroupId"]


def rules(ec2, group):
    found = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])
    return {rule["SecurityGroupRuleId"]: rule for rule in found["SecurityGroupRules"]}


def test_the_default_vpc_is_there_from_the_first_look(ec2):
    vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    assert [(vpc["State"], vpc["IsDefault"], vpc["OwnerId"], vpc["InstanceTenancy"]) for vpc in vpcs] == [
        ("available", True, "123456789012", "default")]
    # Which block it is depends on what the host routes elsewhere.
    block = ipaddress.ip_network(vpcs[0]["CidrBlock"])
    first, second, *_ = map(str, block.subnets(new_prefix=20))
    assert block.prefixlen == 16
    vpc = vpcs[0]["VpcId"]
    mine = [{"Name": "vpc-id", "Values": [vpc]}]
    subnets = ec2.describe_subnets(Filters=mine)["Subnets"]
    shown = sorted((subnet["AvailabilityZone"], subnet["AvailabilityZoneId"], subnet["CidrBlock"], subnet["DefaultForAz"])
                   for subnet in subnets)
    assert shown == [("us-east-1a", "use1-az1", first, True), ("us-east-1b", "use1-az2", second, True)]
    group, = ec2.describe_security_groups(Filters=mine)["SecurityGroups"]
    assert (group["GroupName"], group["Description"]) == ("default", "default VPC security group")
    assert group["IpPermissions"] == [{
        "IpProtocol": "-1", "IpRanges": [], "Ipv6Ranges": [], "PrefixListIds": [],
        "UserIdGroupPairs": [{"GroupId": group["GroupId"], "UserId": "123456789012"}]}]
    assert group["IpPermissionsEgress"] == [{
        "IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}], "Ipv6Ranges": [], "PrefixListIds": [],
        "UserIdGroupPairs": []}]
    with refused("CannotDelete", part="cannot be deleted by a user"):
        ec2.delete_security_group(GroupId=group["GroupId"])
    with refused("DefaultVpcAlreadyExists"):
        ec2.create_default_vpc()
    attributes = ec2.describe_account_attributes()["AccountAttributes"]
    values = {one["AttributeName"]: one["AttributeValues"][0]["AttributeValue"] for one in attributes}
    assert values == {"supported-platforms": "VPC", "default-vpc": vpc}


def test_zones_and_regions(ec2):
    zones = ec2.describe_availability_zones()["AvailabilityZones"]
    assert [(zone["ZoneName"], zone["ZoneId"], zone["State"]) for zone in zones] == [
        ("us-east-1a", "use1-az1", "available"), ("us-east-1b", "use1-az2", "available")]
    assert len(ec2.describe_availability_zones(Filters=[{"Name": "zone-name", "Values": ["*b"]}])["AvailabilityZones"]) == 1
    assert [region["RegionName"] for region in ec2.describe_regions()["Regions"]] == ["us-east-1"]
    with refused("InvalidParameterValue"):
        ec2.describe_availability_zones(ZoneNames=["us-east-1z"])


def test_a_vpc_of_ones_own(ec2, vpc):
    mine = vpc["VpcId"]
    ec2.get_waiter("vpc_available").wait(VpcIds=[mine])
    subnet = ec2.create_subnet(VpcId=mine, CidrBlock=vpc["CidrBlock"].replace("/16", "/28"), AvailabilityZone="us-east-1b",
                               TagSpecifications=[{"ResourceType": "subnet", "Tags": [{"Key": "Name", "Value": "small"}]}])
    subnet = subnet["Subnet"]
    ec2.get_waiter("subnet_available").wait(SubnetIds=[subnet["SubnetId"]])
    assert (subnet["AvailableIpAddressCount"], subnet["AvailabilityZone"], subnet["Tags"]) == (
        11, "us-east-1b", [{"Key": "Name", "Value": "small"}])
    assert subnet["SubnetArn"] == f"arn:aws:ec2:us-east-1:123456789012:subnet/{subnet['SubnetId']}"
    with refused("InvalidSubnet.Conflict", part="conflicts with another subnet"):
        ec2.create_subnet(VpcId=mine, CidrBlock=vpc["CidrBlock"].replace("/16", "/20"))
    with refused("InvalidSubnet.Range"):
        ec2.create_subnet(VpcId=mine, CidrBlock="192.168.0.0/24")
    with refused("InvalidVpc.Range", part="one routed address space"):
        ec2.create_vpc(CidrBlock=vpc["CidrBlock"])
    with refused("InvalidVpc.Range"):
        ec2.create_vpc(CidrBlock="10.0.0.0/8")
    with refused("InvalidParameterValue", part="malformed"):
        ec2.create_vpc(CidrBlock="ten")
    with refused("DependencyViolation"):
        ec2.delete_vpc(VpcId=mine)
    attribute = ec2.describe_vpc_attribute(VpcId=mine, Attribute="enableDnsSupport")
    assert attribute["EnableDnsSupport"] == {"Value": True} and attribute["VpcId"] == mine


def test_what_does_not_exist(ec2):
    nothing = "0123456789abcdef0"
    for call, code in [
        (lambda: ec2.describe_vpcs(VpcIds=[f"vpc-{nothing}"]), "InvalidVpcID.NotFound"),
        (lambda: ec2.delete_vpc(VpcId=f"vpc-{nothing}"), "InvalidVpcID.NotFound"),
        (lambda: ec2.describe_subnets(SubnetIds=[f"subnet-{nothing}"]), "InvalidSubnetID.NotFound"),
        (lambda: ec2.delete_subnet(SubnetId=f"subnet-{nothing}"), "InvalidSubnetID.NotFound"),
        (lambda: ec2.describe_security_groups(GroupIds=[f"sg-{nothing}"]), "InvalidGroup.NotFound"),
        (lambda: ec2.describe_security_groups(GroupIds=["x"]), "InvalidGroupId.Malformed"),
        (lambda: ec2.describe_security_groups(GroupNames=["no such"]), "InvalidGroup.NotFound"),
        (lambda: ec2.delete_security_group(GroupId=f"sg-{nothing}"), "InvalidGroup.NotFound"),
        (lambda: ec2.delete_security_group(), "MissingParameter"),
        (lambda: ec2.describe_security_group_rules(SecurityGroupRuleIds=[f"sgr-{nothing}"]), "InvalidSecurityGroupRuleId.NotFound"),
        (lambda: ec2.describe_network_interfaces(NetworkInterfaceIds=[f"eni-{nothing}"]), "InvalidNetworkInterfaceID.NotFound"),
        (lambda: ec2.create_tags(Resources=[f"vpc-{nothing}"], Tags=[{"Key": "a", "Value": ""}]), "InvalidVpcID.NotFound"),
        (lambda: ec2.create_tags(Resources=["i-1"], Tags=[{"Key": "a", "Value": ""}]), "InvalidID"),
        (lambda: ec2.describe_vpcs(Filters=[{"Name": "colour", "Values": ["red"]}]), "InvalidParameterValue"),
    ]:
        with refused(code):
            call()
    with pytest.raises(WaiterError):
        ec2.get_waiter("vpc_exists").wait(VpcIds=[f"vpc-{nothing}"], WaiterConfig={"Delay": 0, "MaxAttempts": 2})


def test_groups(ec2, vpc, group):
    ec2.get_waiter("security_group_exists").wait(GroupIds=[group])
    with refused("InvalidGroup.Duplicate", message=f"The security group 'web' already exists for VPC '{vpc['VpcId']}'"):
        ec2.create_security_group(GroupName="web", Description="again", VpcId=vpc["VpcId"])
    with refused("InvalidParameterValue"):
        ec2.create_security_group(GroupName="sg-web", Description="bad", VpcId=vpc["VpcId"])
    found, = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert (found["IpPermissions"], len(found["IpPermissionsEgress"])) == ([], 1)
    other = ec2.create_security_group(GroupName="other", Description="peer", VpcId=vpc["VpcId"])["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[
        {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": other}]}])
    with refused("DependencyViolation", message=f"resource {other} has a dependent object"):
        ec2.delete_security_group(GroupId=other)
    by_peer = [{"Name": "ip-permission.group-id", "Values": [other]}]
    assert [one["GroupId"] for one in ec2.describe_security_groups(Filters=by_peer)["SecurityGroups"]] == [group]


def test_rules(ec2, group):
    added = ec2.authorize_security_group_ingress(
        GroupId=group, IpPermissions=[HTTP, {"IpProtocol": "icmp", "FromPort": 8, "ToPort": -1, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}],
        TagSpecifications=[{"ResourceType": "security-group-rule", "Tags": [{"Key": "a", "Value": "b"}]}])["SecurityGroupRules"]
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"], rule["IsEgress"]) for rule in added] == [
        ("tcp", 80, 80, False), ("icmp", 8, -1, False)]
    assert added[0]["Description"] == "web" and added[0]["Tags"] == [{"Key": "a", "Value": "b"}]
    with refused("InvalidPermission.Duplicate",
                 part='"peer: 10.0.0.0/8, TCP, from port: 80, to port: 80, ALLOW" already exists'):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[HTTP])
    found, = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    tcp = next(one for one in found["IpPermissions"] if one["IpProtocol"] == "tcp")
    assert tcp["IpRanges"] == HTTP["IpRanges"]

    rule = added[0]["SecurityGroupRuleId"]
    ec2.update_security_group_rule_descriptions_ingress(GroupId=group, SecurityGroupRuleDescriptions=[
        {"SecurityGroupRuleId": rule, "Description": "renamed"}])
    assert rules(ec2, group)[rule]["Description"] == "renamed"
    ec2.modify_security_group_rules(GroupId=group, SecurityGroupRules=[{"SecurityGroupRuleId": rule, "SecurityGroupRule": {
        "IpProtocol": "udp", "FromPort": 53, "ToPort": 53, "CidrIpv4": "10.1.2.3/8", "Description": "dns"}}])
    changed = rules(ec2, group)[rule]
    assert (changed["IpProtocol"], changed["CidrIpv4"], changed["Description"]) == ("udp", "10.0.0.0/8", "dns")

    revoked = ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=[rule])
    assert [one["SecurityGroupRuleId"] for one in revoked["RevokedSecurityGroupRules"]] == [rule]
    with refused("InvalidPermission.NotFound"):
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[HTTP])
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    assert ec2.revoke_security_group_egress(GroupId=group, IpPermissions=everything)["Return"] is True
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[
        {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}])
    found, = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert [(one["IpProtocol"], one["Ipv6Ranges"]) for one in found["IpPermissionsEgress"]] == [("tcp", [{"CidrIpv6": "::/0"}])]


@pytest.mark.parametrize("permission,code", [
    ({"IpProtocol": "tcp", "FromPort": 90, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}, "InvalidParameterValue"),
    ({"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0"}]}, "InvalidParameterValue"),
    ({"IpProtocol": "http", "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}, "InvalidParameterValue"),
    ({"IpProtocol": "-1"}, "MissingParameter"),
    ({"IpProtocol": "-1", "PrefixListIds": [{"PrefixListId": "pl-1"}]}, "UnsupportedOperation"),
    ({"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-0123456789abcdef0"}]}, "InvalidGroup.NotFound"),
    ({"IpProtocol": "-1", "IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "<b>"}]}, "InvalidParameterValue"),
    # A member that Neargate leaves out is not ignored.
    ({"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-0123456789abcdef0", "VpcPeeringConnectionId": "pcx-1"}]},
     "UnknownParameter"),
])
def test_rules_that_mean_nothing_are_refused(ec2, group, permission, code):
    with refused(code):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[permission])
    assert all(rule["IsEgress"] for rule in rules(ec2, group).values())


def test_there_is_a_limit_for_rules(ec2, group):
    def allow(ports):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[
            {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]} for port in ports])
    allow(range(60))
    with refused("RulesPerSecurityGroupLimitExceeded"):
        allow([60])


def test_pages_and_filters(server, ec2, vpc):
    names = [f"page-{number:02}" for number in range(12)]
    for name in names:
        ec2.create_security_group(GroupName=name, Description="page", VpcId=vpc["VpcId"])
    mine = [{"Name": "vpc-id", "Values": [vpc["VpcId"]]}, {"Name": "group-name", "Values": ["page-0?", "page-1*"]}]
    pages = list(ec2.get_paginator("describe_security_groups").paginate(Filters=mine, PaginationConfig={"PageSize": 5}))
    assert [len(page["SecurityGroups"]) for page in pages] == [5, 5, 2]
    assert sorted(group["GroupName"] for page in pages for group in page["SecurityGroups"]) == names
    group = pages[0]["SecurityGroups"][0]["GroupId"]
    with refused("InvalidParameterCombination"):
        ec2.describe_security_groups(GroupIds=[group], MaxResults=5)
    # boto3 would not send this.
    with refused("InvalidParameterValue", part="MaxResults"):
        server.client("ec2", parameter_validation=False).describe_security_groups(MaxResults=4)
    with refused("InvalidParameterValue"):
        ec2.describe_security_groups(NextToken="?")


def test_tags(ec2, vpc, group):
    mine = [vpc["VpcId"], group]
    ec2.create_tags(Resources=mine, Tags=[{"Key": "env", "Value": "test"}, {"Key": "owner", "Value": "me"}])
    found = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": mine}])["Tags"]
    assert sorted((tag["ResourceType"], tag["Key"], tag["Value"]) for tag in found) == [
        ("security-group", "env", "test"), ("security-group", "owner", "me"), ("vpc", "env", "test"), ("vpc", "owner", "me")]
    by_tag = [{"Name": "tag:env", "Values": ["te*"]}, {"Name": "group-id", "Values": [group]}]
    assert len(ec2.describe_security_groups(Filters=by_tag)["SecurityGroups"]) == 1
    ec2.delete_tags(Resources=mine, Tags=[{"Key": "env", "Value": "other"}, {"Key": "owner"}])
    assert ec2.describe_vpcs(VpcIds=[vpc["VpcId"]])["Vpcs"][0]["Tags"] == [{"Key": "env", "Value": "test"}]
    ec2.delete_tags(Resources=mine)
    assert ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": mine}])["Tags"] == []
    with refused("InvalidParameterValue", part="aws:"):
        ec2.create_tags(Resources=mine, Tags=[{"Key": "aws:x", "Value": ""}])
    with refused("TagLimitExceeded"):
        ec2.create_tags(Resources=mine, Tags=[{"Key": str(number), "Value": ""} for number in range(51)])
    with refused("InvalidParameterValue", part="not a valid taggable resource type"):
        ec2.create_vpc(CidrBlock="10.99.0.0/16", TagSpecifications=[{"ResourceType": "subnet", "Tags": [{"Key": "a", "Value": "b"}]}])


def test_what_neargate_does_not_have_is_refused(ec2):
    with refused("UnsupportedOperation"):
        ec2.describe_instances()
    with refused("UnknownParameter", part="Ipv6Pool"):
        ec2.create_vpc(CidrBlock="10.99.0.0/16", Ipv6Pool="pool")


def unlike_any(ecs, arn, status):
    """The task, once its status is none of these."""
    deadline = time.monotonic() + STOP_LIMIT_S
    while time.monotonic() < deadline:
        task = ecs.describe_tasks(cluster=CLUSTER, tasks=[arn])["tasks"][0]
        if task["lastStatus"] not in status:
            return task
        time.sleep(0.01)
    raise AssertionError(task)


@needs_wasm
def test_a_task_has_an_interface_while_it_lives(ec2, ecs, register, run, until_stopped, subnet):
    home = ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]
    default = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["default"]}, {
        "Name": "vpc-id", "Values": [home["VpcId"]]}])
    register(["tick", "60000"])
    arn = run()["tasks"][0]["taskArn"]
    task = unlike_any(ecs, arn, ["PROVISIONING", "PENDING"])
    attachment, = task["attachments"]
    details = {detail["name"]: detail["value"] for detail in attachment["details"]}
    assert (task["lastStatus"], attachment["status"], details["subnetId"]) == ("RUNNING", "ATTACHED", subnet)
    address = details["privateIPv4Address"]
    assert ipaddress.ip_address(address) in ipaddress.ip_network(home["CidrBlock"])
    assert details["privateDnsName"] == f"ip-{address.replace('.', '-')}.ec2.internal"
    assert task["containers"][0]["networkInterfaces"] == [{"attachmentId": attachment["id"], "privateIpv4Address": address}]
    assert task["availabilityZone"] == home["AvailabilityZone"]

    interface, = ec2.describe_network_interfaces(
        Filters=[{"Name": "private-ip-address", "Values": [address]}])["NetworkInterfaces"]
    assert (interface["NetworkInterfaceId"], interface["MacAddress"], interface["Status"], interface["SubnetId"]) == (
        details["networkInterfaceId"], details["macAddress"], "in-use", subnet)
    assert interface["Groups"] == [{"GroupId": default["SecurityGroups"][0]["GroupId"], "GroupName": "default"}]
    assert interface["Description"] == f"arn:aws:ecs:us-east-1:123456789012:attachment/{attachment['id']}"
    with refused("DependencyViolation"):
        ec2.delete_subnet(SubnetId=subnet)

    ecs.stop_task(cluster=CLUSTER, task=arn)
    stopped = until_stopped(arn)
    assert stopped["attachments"][0]["status"] == "DELETED"
    assert stopped["attachments"][0]["details"] == attachment["details"]
    with refused("InvalidNetworkInterfaceID.NotFound"):
        ec2.describe_network_interfaces(NetworkInterfaceIds=[interface["NetworkInterfaceId"]])


@needs_wasm
def test_run_task_refuses_networks_that_are_not_there(ec2, register, run, vpc, group, subnet):
    register()
    far = ec2.create_subnet(VpcId=vpc["VpcId"], CidrBlock=vpc["CidrBlock"].replace("/16", "/24"))["Subnet"]["SubnetId"]

    def vpc_of(subnets, **more):
        return {"networkConfiguration": {"awsvpcConfiguration": {"subnets": subnets, **more}}}
    nothing = "subnet-0123456789abcdef0"
    for network, part in [
        (vpc_of([nothing]), f"The subnet ID '{nothing}' does not exist"),
        (vpc_of(["subnet-1"]), "The subnet ID 'subnet-1' does not exist"),
        (vpc_of([]), "subnets can not be empty."),
        (vpc_of([subnet] * 17), "subnets can have at most 16 items."),
        (vpc_of([subnet, far]), "same VPC"),
        (vpc_of([subnet], securityGroups=["sg-0123456789abcdef0"]), "The security group 'sg-0123456789abcdef0' does not exist"),
        (vpc_of([subnet], securityGroups=[group]), "same VPC"),
        (vpc_of([subnet], securityGroups=[f"sg-0123456789abcdef{number}" for number in range(6)]),
         "securityGroups can have at most 5 items."),
    ]:
        with refused("InvalidParameterException", part=part):
            run(**network)


@needs_wasm
def test_a_subnet_without_addresses_has_no_room(ec2, ecs, register, run, until_stopped, vpc):
    register(["tick", "60000"], cpu="256", memory="512")
    small = ec2.create_subnet(VpcId=vpc["VpcId"], CidrBlock=vpc["CidrBlock"].replace("/16", "/28"))["Subnet"]["SubnetId"]
    network = {"networkConfiguration": {"awsvpcConfiguration": {"subnets": [small]}}}
    tasks, failures = [], []
    for count in [10, 2]:
        answer = run(count=count, **network)
        tasks += [task["taskArn"] for task in answer["tasks"]]
        failures += [failure["reason"] for failure in answer["failures"]]
    for arn in tasks:
        ecs.stop_task(cluster=CLUSTER, task=arn)
    for arn in tasks:
        until_stopped(arn)
    assert (len(tasks), failures) == (11, ["RESOURCE:ENI"])
    # The addresses rest before others get them.
    assert ec2.describe_subnets(SubnetIds=[small])["Subnets"][0]["AvailableIpAddressCount"] == 0


def test_networks_outlive_the_server(server_directory):
    directory = server_directory()
    first = Server(directory)
    ec2 = first.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    group = ec2.create_security_group(GroupName=uuid.uuid4().hex, Description="kept", VpcId=vpc)["GroupId"]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[HTTP])
    before = (ec2.describe_vpcs()["Vpcs"], ec2.describe_subnets()["Subnets"], ec2.describe_security_groups()["SecurityGroups"])
    first.stop()
    second = Server(directory)
    ec2 = second.client("ec2")
    after = (ec2.describe_vpcs()["Vpcs"], ec2.describe_subnets()["Subnets"], ec2.describe_security_groups()["SecurityGroups"])
    second.stop()
    assert after == before

"""AWS Cloud Map by boto3, and what tasks find by it."""

import os
import re
import subprocess
import uuid

import pytest
from botocore.exceptions import ClientError
from conftest import BINARY, Server, needs_root

A_RECORD = {"DnsRecords": [{"Type": "A", "TTL": 10}], "RoutingPolicy": "MULTIVALUE"}
ADDRESS, PORT = "AWS_INSTANCE_IPV4", "AWS_INSTANCE_PORT"


@pytest.fixture(scope="session")
def discovery(server):
    return client(server)


def client(server):
    # The SDK would ask data-127.0.0.1 for instances.
    return server.client("servicediscovery", inject_host_prefix=False)


@pytest.fixture(scope="session")
def vpc(ec2):
    return next(one["VpcId"] for one in ec2.describe_vpcs()["Vpcs"] if one["IsDefault"])


def target(discovery, operation, kind):
    done = discovery.get_operation(OperationId=operation)["Operation"]
    assert done["Status"] == "SUCCESS", done
    return done["Targets"][kind]


@pytest.fixture
def zone(discovery, vpc):
    """A private namespace; it goes with all that is in it."""
    name = f"z-{uuid.uuid4().hex[:8]}.local"
    made = discovery.create_private_dns_namespace(Name=name, Vpc=vpc, CreatorRequestId="mine")
    yield discovery.get_namespace(Id=target(discovery, made["OperationId"], "NAMESPACE"))["Namespace"]
    remove(discovery, target(discovery, made["OperationId"], "NAMESPACE"))


def remove(discovery, namespace):
    mine = {"Name": "NAMESPACE_ID", "Values": [namespace]}
    for service in discovery.list_services(Filters=[mine])["Services"]:
        for instance in discovery.list_instances(ServiceId=service["Id"])["Instances"]:
            discovery.deregister_instance(ServiceId=service["Id"], InstanceId=instance["Id"])
        discovery.delete_service(Id=service["Id"])
    discovery.delete_namespace(Id=namespace)


@pytest.fixture
def service(discovery, zone):
    def service(name="web", dns=A_RECORD, **more):
        return discovery.create_service(Name=name, NamespaceId=zone["Id"], DnsConfig=dns, **more)["Service"]
    return service


def register(discovery, service, instance, **attributes):
    discovery.register_instance(ServiceId=service["Id"], InstanceId=instance, Attributes=attributes)


def refused(call, code, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    assert caught.value.response["Error"]["Code"] == code, caught.value.response
    return caught.value.response


def test_namespaces(discovery, vpc, zone):
    assert (zone["Type"], zone["ServiceCount"], zone["CreatorRequestId"]) == ("DNS_PRIVATE", 0, "mine")
    assert zone["Arn"].endswith(f":namespace/{zone['Id']}") and zone["Id"].startswith("ns-")
    assert zone["Properties"]["DnsProperties"]["SOA"] == {"TTL": 15}
    assert zone["Properties"]["HttpProperties"] == {"HttpName": zone["Name"]}
    again = refused(discovery.create_private_dns_namespace, "NamespaceAlreadyExists", Name=zone["Name"].upper(), Vpc=vpc)
    assert (again["NamespaceId"], again["CreatorRequestId"]) == (zone["Id"], "mine")
    refused(discovery.create_private_dns_namespace, "InvalidInput", Name="no name", Vpc=vpc)
    refused(discovery.create_private_dns_namespace, "InvalidInput", Name="x.local", Vpc="vpc-00000000000000000")
    refused(discovery.get_namespace, "NamespaceNotFound", Id="ns-0000000000000000")
    refused(discovery.get_operation, "OperationNotFound", OperationId="0" * 32)
    refused(discovery.create_public_dns_namespace, "UnknownOperationException", Name="example.com")

    def listed(name, *values, **more):
        found = discovery.list_namespaces(Filters=[{"Name": name, "Values": list(values), **more}])
        return [one["Id"] for one in found["Namespaces"]]

    assert listed("NAME", zone["Name"]) == [zone["Id"]]
    assert zone["Id"] in listed("TYPE", "DNS_PRIVATE") and zone["Id"] not in listed("TYPE", "HTTP")
    assert zone["Id"] in listed("NAME", zone["Name"][:5], Condition="BEGINS_WITH")
    assert discovery.get_namespace(Id=zone["Arn"])["Namespace"]["Id"] == zone["Id"]


def test_services(discovery, zone, service):
    made = service("Web", HealthCheckCustomConfig={"FailureThreshold": 1}, CreatorRequestId="mine", Description="shop")
    assert (made["Name"], made["Type"], made["InstanceCount"]) == ("Web", "DNS_HTTP", 0)
    assert made["DnsConfig"]["DnsRecords"] == A_RECORD["DnsRecords"]
    again = refused(discovery.create_service, "ServiceAlreadyExists", Name="web", NamespaceId=zone["Id"], DnsConfig=A_RECORD)
    assert (again["ServiceId"], again["CreatorRequestId"]) == (made["Id"], "mine")
    alias = {"DnsRecords": [{"Type": "CNAME", "TTL": 10}], "RoutingPolicy": "MULTIVALUE"}
    refused(service, "InvalidInput", name="alias", dns=alias)
    refused(service, "InvalidInput", name="both", dns={"DnsRecords": [*A_RECORD["DnsRecords"], *alias["DnsRecords"]]})
    refused(service, "InvalidInput", name="checked", HealthCheckConfig={"Type": "HTTP"})
    refused(discovery.create_service, "NamespaceNotFound", Name="web", NamespaceId="ns-0000000000000000", DnsConfig=A_RECORD)
    refused(discovery.delete_namespace, "ResourceInUse", Id=zone["Id"])
    assert discovery.get_namespace(Id=zone["Id"])["Namespace"]["ServiceCount"] == 1
    change = {"Description": "new", "DnsConfig": {"DnsRecords": [{"Type": "A", "TTL": 99}]}}
    operation = discovery.update_service(Id=made["Id"], Service=change)["OperationId"]
    assert target(discovery, operation, "SERVICE") == made["Id"]
    found = discovery.get_service(Id=made["Arn"])["Service"]
    assert (found["Description"], found["DnsConfig"]["DnsRecords"][0]["TTL"]) == ("new", 99)
    register(discovery, made, "i", **{ADDRESS: "10.1.2.3"})
    refused(discovery.delete_service, "ResourceInUse", Id=made["Id"])


def test_instances(discovery, zone, service):
    made = service(HealthCheckCustomConfig={"FailureThreshold": 1})
    refused(discovery.register_instance, "InvalidInput", ServiceId=made["Id"], InstanceId="i", Attributes={})
    refused(discovery.register_instance, "InvalidInput", ServiceId=made["Id"], InstanceId="i",
            Attributes={ADDRESS: "169.254.170.2"})
    for number, stage in [(1, "blue"), (2, "green"), (3, "green")]:
        register(discovery, made, f"i{number}", **{ADDRESS: f"10.1.2.{number}", "stage": stage})
    request = {"ServiceId": made["Id"], "InstanceId": "again", "Attributes": {ADDRESS: "10.1.2.4"}, "CreatorRequestId": "one"}
    first = discovery.register_instance(**request)["OperationId"]
    assert discovery.register_instance(**request)["OperationId"] == first
    twice = refused(discovery.register_instance, "DuplicateRequest", **request | {"Attributes": {ADDRESS: "10.1.2.5"}})
    assert twice["DuplicateOperationId"] == first
    discovery.deregister_instance(ServiceId=made["Id"], InstanceId="again")
    refused(discovery.deregister_instance, "InstanceNotFound", ServiceId=made["Id"], InstanceId="again")

    pages = discovery.get_paginator("list_instances").paginate(ServiceId=made["Id"], PaginationConfig={"PageSize": 2})
    assert [one["Id"] for page in pages for one in page["Instances"]] == ["i1", "i2", "i3"]
    assert discovery.get_instance(ServiceId=made["Id"], InstanceId="i1")["Instance"]["Attributes"]["stage"] == "blue"

    def found(**more):
        answer = discovery.discover_instances(NamespaceName=zone["Name"], ServiceName="web", **more)
        return sorted(one["InstanceId"] for one in answer["Instances"]), answer["InstancesRevision"]

    everything, revision = found()
    assert everything == ["i1", "i2", "i3"]
    assert found(QueryParameters={"stage": "green"})[0] == ["i2", "i3"]
    assert found(QueryParameters={"stage": "red"})[0] == []
    assert found(OptionalParameters={"stage": "blue"})[0] == ["i1"]
    assert found(OptionalParameters={"stage": "red"})[0] == everything
    assert len(found(MaxResults=2)[0]) == 2
    set_health = discovery.update_instance_custom_health_status
    set_health(ServiceId=made["Id"], InstanceId="i1", Status="UNHEALTHY")
    assert found() == (["i2", "i3"], revision)
    assert found(HealthStatus="UNHEALTHY")[0] == ["i1"]
    assert discovery.get_instances_health_status(ServiceId=made["Id"])["Status"] == {
        "i1": "UNHEALTHY", "i2": "HEALTHY", "i3": "HEALTHY"}
    refused(set_health, "InstanceNotFound", ServiceId=made["Id"], InstanceId="no", Status="HEALTHY")
    refused(set_health, "CustomHealthNotFound", ServiceId=service("plain")["Id"], InstanceId="no", Status="HEALTHY")
    register(discovery, made, "i4", **{ADDRESS: "10.1.2.4"})
    revised = discovery.discover_instances_revision(NamespaceName=zone["Name"], ServiceName="web")
    assert revised["InstancesRevision"] > revision
    refused(discovery.discover_instances, "NamespaceNotFound", NamespaceName="no.local", ServiceName="web")
    refused(discovery.discover_instances, "ServiceNotFound", NamespaceName=zone["Name"], ServiceName="no")
    done = discovery.list_operations(Filters=[{"Name": "SERVICE_ID", "Values": [made["Id"]]},
                                              {"Name": "TYPE", "Values": ["DEREGISTER_INSTANCE"]}])["Operations"]
    assert [one["Status"] for one in done] == ["SUCCESS"]


def test_http_namespaces_are_not_in_dns(discovery):
    name = f"http-{uuid.uuid4().hex[:8]}"
    made = discovery.create_http_namespace(Name=name, Tags=[{"Key": "a", "Value": "b"}])
    namespace = target(discovery, made["OperationId"], "NAMESPACE")
    refused(discovery.create_service, "InvalidInput", Name="web", NamespaceId=namespace, DnsConfig=A_RECORD)
    service = discovery.create_service(Name="web", NamespaceId=namespace)["Service"]
    assert service["Type"] == "HTTP" and "DnsConfig" not in service
    discovery.register_instance(ServiceId=service["Id"], InstanceId="i", Attributes={"any": "thing"})
    found = discovery.discover_instances(NamespaceName=name, ServiceName="web")["Instances"]
    assert found[0]["Attributes"] == {"any": "thing"} and found[0]["HealthStatus"] == "UNKNOWN"
    arn = discovery.get_namespace(Id=namespace)["Namespace"]["Arn"]
    discovery.tag_resource(ResourceARN=arn, Tags=[{"Key": "c", "Value": "d"}])
    discovery.untag_resource(ResourceARN=arn, TagKeys=["a"])
    assert discovery.list_tags_for_resource(ResourceARN=arn)["Tags"] == [{"Key": "c", "Value": "d"}]
    refused(discovery.list_tags_for_resource, "ResourceNotFoundException", ResourceARN=arn[:-1] + "%")
    remove(discovery, namespace)


@pytest.fixture
def task(vpc_task, until_running):
    """Runs a task that waits in a subnet; answers its ARN."""
    def task(*where):
        arn = vpc_task(["sleep", "1000"], *where)
        until_running(arn)
        return arn
    return task


@pytest.fixture
def look_up(server):
    """What `nslookup` in a task says of a name: its addresses, or all that it says."""
    def look_up(arn, name, kind="a"):
        done = subprocess.run([BINARY, "exec", arn, "--", "/bin/busybox", "nslookup", f"-type={kind}", name],
                              capture_output=True, text=True, env={**os.environ, **server.environment}, timeout=60)
        said = done.stdout + done.stderr
        return sorted(re.findall(r"^Address: (\S+)", said, re.M)) or said
    return look_up


@needs_root
def test_tasks_find_each_other_by_name(discovery, zone, service, task, look_up):
    asker = task()
    made = service(HealthCheckCustomConfig={"FailureThreshold": 1})
    name = f"web.{zone['Name']}"
    assert "NXDOMAIN" in look_up(asker, name)
    # The answer that there is no name holds for as long as the namespace says; the resolver itself keeps nothing of it.
    for number in (1, 2, 3):
        register(discovery, made, f"i{number}", **{ADDRESS: f"10.1.2.{number}"})
        assert look_up(asker, name) == [f"10.1.2.{last}" for last in range(1, number + 1)], "at once"
    set_health = discovery.update_instance_custom_health_status
    set_health(ServiceId=made["Id"], InstanceId="i2", Status="UNHEALTHY")
    assert look_up(asker, name) == ["10.1.2.1", "10.1.2.3"]
    for instance in ("i1", "i3"):
        set_health(ServiceId=made["Id"], InstanceId=instance, Status="UNHEALTHY")
    assert look_up(asker, name) == ["10.1.2.1", "10.1.2.2", "10.1.2.3"], "all, when none is healthy"
    for number in range(4, 21):
        register(discovery, made, f"i{number}", **{ADDRESS: f"10.1.2.{number}"})
    assert len(look_up(asker, name)) == 8
    discovery.deregister_instance(ServiceId=made["Id"], InstanceId="i4")
    assert "10.1.2.4" not in look_up(asker, name)


@needs_root
def test_ports_and_aliases_are_found(discovery, zone, service, task, look_up):
    asker = task()
    ports = {"DnsRecords": [{"Type": "SRV", "TTL": 10}], "RoutingPolicy": "MULTIVALUE"}
    made = service("_http._tcp", ports)
    register(discovery, made, "one", **{ADDRESS: "10.1.2.1", PORT: "8080"})
    said = look_up(asker, f"_http._tcp.{zone['Name']}", "srv")
    assert f"service = 1 1 8080 one._http._tcp.{zone['Name']}" in said, said
    assert look_up(asker, f"one._http._tcp.{zone['Name']}") == ["10.1.2.1"]
    alias = {"DnsRecords": [{"Type": "CNAME", "TTL": 10}], "RoutingPolicy": "WEIGHTED"}
    register(discovery, service("alias", alias), "i", AWS_INSTANCE_CNAME=f"one._http._tcp.{zone['Name']}")
    assert look_up(asker, f"alias.{zone['Name']}") == ["10.1.2.1"]


@needs_root
def test_a_namespace_is_seen_in_its_vpc_alone(ec2, discovery, zone, service, task, look_up):
    other = ec2.create_vpc(CidrBlock="10.214.0.0/24")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=other, CidrBlock="10.214.0.0/24")["Subnet"]["SubnetId"]
    register(discovery, service(), "i", **{ADDRESS: "10.1.2.3"})
    name = f"web.{zone['Name']}"
    inside, outside = task(), task(subnet)
    assert look_up(inside, name) == ["10.1.2.3"]
    assert "10.1.2.3" not in look_up(outside, name)


def test_a_restart_keeps_what_is_registered(server_directory):
    """What was acknowledged is there again."""
    directory = server_directory()
    server = Server(directory)
    discovery, ec2 = client(server), server.client("ec2")
    vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    made = discovery.create_private_dns_namespace(Name="kept.local", Vpc=vpc)
    namespace = target(discovery, made["OperationId"], "NAMESPACE")
    service = discovery.create_service(Name="web", NamespaceId=namespace, DnsConfig=A_RECORD)["Service"]
    register(discovery, service, "i", **{ADDRESS: "10.1.2.3"})
    server.process.kill()
    server.process.wait()
    server = Server(directory)
    discovery = client(server)
    found = discovery.discover_instances(NamespaceName="kept.local", ServiceName="web")["Instances"]
    assert [one["InstanceId"] for one in found] == ["i"]
    server.stop()

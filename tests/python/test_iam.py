"""Roles, policies and sessions, by boto3 from outside."""

import json
import urllib.parse
import uuid

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from conftest import CLUSTER, Server
from errors import error_code

ACCOUNT = "123456789012"
ROOT = {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
TASKS = {"Service": "ecs-tasks.amazonaws.com"}


def trust(principal):
    statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": principal}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def policy(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def statement(action, resource="*", effect="Allow", **more):
    return {"Effect": effect, "Action": action, "Resource": resource, **more}


@pytest.fixture(scope="session")
def iam(server):
    return server.client("iam")


@pytest.fixture
def role(iam):
    """Makes roles with these statements; they go with their policies."""
    made = []

    def role(*statements, principal=ROOT, **more):
        name = f"r-{uuid.uuid4().hex[:12]}"
        made.append(name)
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust(principal), **more)["Role"]["Arn"]
        if statements:
            iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=policy(*statements))
        return arn

    yield role
    for name in made:
        for attached in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
            iam.detach_role_policy(RoleName=name, PolicyArn=attached["PolicyArn"])
        for own in iam.list_role_policies(RoleName=name)["PolicyNames"]:
            iam.delete_role_policy(RoleName=name, PolicyName=own)
        iam.delete_role(RoleName=name)


def client_of(server, credentials, service, **changes):
    keys = {"aws_access_key_id": credentials["AccessKeyId"], "aws_secret_access_key": credentials["SecretAccessKey"],
            "aws_session_token": credentials["SessionToken"], **changes}
    return boto3.client(service, endpoint_url=server.endpoint, region_name="us-east-1",
                        config=Config(retries={"max_attempts": 1}), **keys)


@pytest.fixture
def session(server):
    """Takes on a role; answers what makes clients with its credentials."""
    def session(arn, **more):
        sts = server.client("sts")
        credentials = sts.assume_role(RoleArn=arn, RoleSessionName="tester", **more)["Credentials"]
        return lambda service: client_of(server, credentials, service)
    return session


def test_a_role_is_what_was_made_of_it(iam, role):
    arn = role(statement("ecs:*"), Description="for a test", Path="/tests/", MaxSessionDuration=7200,
               Tags=[{"Key": "a", "Value": "b"}])
    name = arn.rsplit("/", 1)[1]
    shown = iam.get_role(RoleName=name)["Role"]
    assert arn == f"arn:aws:iam::{ACCOUNT}:role/tests/{name}" == shown["Arn"]
    assert shown["RoleId"].startswith("AROA") and shown["MaxSessionDuration"] == 7200
    assert shown["AssumeRolePolicyDocument"] == json.loads(trust(ROOT)) and shown["Tags"] == [{"Key": "a", "Value": "b"}]
    assert name in [one["RoleName"] for page in iam.get_paginator("list_roles").paginate(PathPrefix="/tests/")
                    for one in page["Roles"]]
    assert iam.list_role_policies(RoleName=name)["PolicyNames"] == ["own"]
    own = iam.get_role_policy(RoleName=name, PolicyName="own")
    assert own["PolicyDocument"] == json.loads(policy(statement("ecs:*")))
    iam.tag_role(RoleName=name, Tags=[{"Key": "c", "Value": "d"}])
    iam.untag_role(RoleName=name, TagKeys=["a"])
    assert iam.list_role_tags(RoleName=name)["Tags"] == [{"Key": "c", "Value": "d"}]
    assert error_code(iam.create_role, RoleName=name, AssumeRolePolicyDocument=trust(ROOT)) == "EntityAlreadyExists"
    assert error_code(iam.delete_role, RoleName=name) == "DeleteConflict"
    assert error_code(iam.get_role, RoleName="absent") == "NoSuchEntity"


def test_managed_policies(iam, role):
    name = role().rsplit("/", 1)[1]
    aws = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
    own = iam.create_policy(PolicyName=f"p-{uuid.uuid4().hex[:8]}", PolicyDocument=policy(statement("logs:*")))["Policy"]
    for arn in (aws, own["Arn"]):
        iam.attach_role_policy(RoleName=name, PolicyArn=arn)
    attached = iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
    assert {one["PolicyArn"] for one in attached} == {aws, own["Arn"]}
    assert iam.get_policy(PolicyArn=own["Arn"])["Policy"]["AttachmentCount"] == 1
    version = iam.get_policy_version(PolicyArn=aws, VersionId="v1")["PolicyVersion"]
    assert "logs:PutLogEvents" in version["Document"]["Statement"][0]["Action"]
    assert own["Arn"] in [one["Arn"] for one in iam.list_policies(Scope="Local")["Policies"]]
    assert error_code(iam.delete_policy, PolicyArn=own["Arn"]) == "DeleteConflict"
    unknown = "arn:aws:iam::aws:policy/AmazonS3FullAccess"
    assert error_code(iam.attach_role_policy, RoleName=name, PolicyArn=unknown) == "NoSuchEntity"
    iam.detach_role_policy(RoleName=name, PolicyArn=own["Arn"])
    iam.delete_policy(PolicyArn=own["Arn"])
    assert error_code(iam.get_policy, PolicyArn=own["Arn"]) == "NoSuchEntity"


@pytest.mark.parametrize("document", [
    "{", "{}", "[]", policy(), policy(statement("RunTask")), policy(statement("ecs:*", "task")),
    policy(statement("ecs:*", Condition={"StringMatches": {"aws:SourceIp": "x"}})),
    policy(statement("ecs:*", Condition={"StringNotEquals": {"aws:ResourceTag/env": "prod"}})),
    policy(statement("ecs:*", Principal="*")), policy(statement("ecs:*", "arn:aws:ecs:*:*:task/${aws:username}")),
    policy({"Effect": "Allow", "Action": "ecs:*"}), policy(statement("ecs:*", "*", "Perhaps")),
])
def test_documents_that_are_not_understood_are_refused(iam, role, document):
    name = role().rsplit("/", 1)[1]
    put = {"RoleName": name, "PolicyName": "bad", "PolicyDocument": document}
    assert error_code(iam.put_role_policy, **put) == "MalformedPolicyDocument"
    assert iam.list_role_policies(RoleName=name)["PolicyNames"] == []


def test_a_session_is_the_role_and_nothing_more(session, role):
    arn = role(statement("ecs:List*"), statement("ecs:DescribeClusters", f"arn:aws:ecs:*:*:cluster/{CLUSTER}"),
               statement("ec2:Describe*"))
    client = session(arn)
    shown = client("sts").get_caller_identity()
    name = arn.rsplit("/", 1)[1]
    assert shown["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/{name}/tester"
    assert shown["UserId"].startswith("AROA") and shown["UserId"].endswith(":tester")
    ecs = client("ecs")
    ecs.list_clusters()
    assert ecs.describe_clusters(clusters=[CLUSTER])["clusters"]
    # Every resource has to be allowed, and each protocol says so in its own words.
    assert error_code(ecs.describe_clusters, clusters=[CLUSTER, "other"]) == "AccessDeniedException"
    assert error_code(ecs.create_cluster, clusterName="other") == "AccessDeniedException"
    assert error_code(client("logs").describe_log_groups) == "AccessDeniedException"
    client("ec2").describe_vpcs()
    assert error_code(client("ec2").create_vpc, CidrBlock="10.214.0.0/24") == "UnauthorizedOperation"
    assert error_code(client("iam").list_roles) == "AccessDenied"
    assert error_code(client("sts").get_session_token) == "AccessDenied"
    with pytest.raises(ClientError, match=f"assumed-role/{name}/tester is not authorized to perform: ecs:CreateCluster on "
                                          f"resource: arn:aws:ecs:us-east-1:{ACCOUNT}:cluster/other"):
        ecs.create_cluster(clusterName="other")


def test_a_denial_wins_at_once(iam, session, role):
    arn = role(statement("*"))
    name, ecs = arn.rsplit("/", 1)[1], session(arn)("ecs")
    ecs.list_clusters()
    iam.attach_role_policy(RoleName=name, PolicyArn="arn:aws:iam::aws:policy/AWSDenyAll")
    with pytest.raises(ClientError, match="explicit deny"):
        ecs.list_clusters()
    iam.detach_role_policy(RoleName=name, PolicyArn="arn:aws:iam::aws:policy/AWSDenyAll")
    ecs.list_clusters()


def test_conditions_count(session, role):
    here = {"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}
    in_cluster = {"ArnEquals": {"ecs:cluster": f"arn:aws:ecs:us-east-1:{ACCOUNT}:cluster/{CLUSTER}"}}
    elsewhere = {"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}
    client = session(role(statement("ecs:ListClusters", Condition=here), statement("ecs:ListTasks", Condition=in_cluster),
                          statement("ec2:DescribeVpcs", Condition=elsewhere)))
    client("ecs").list_clusters()
    client("ecs").list_tasks(cluster=CLUSTER)
    assert error_code(client("ecs").list_tasks, cluster="other") == "AccessDeniedException"
    assert error_code(client("ec2").describe_vpcs) == "UnauthorizedOperation"


def test_who_may_take_on_a_role(server, session, role):
    sts = server.client("sts")
    take = {"RoleSessionName": "tester"}
    assert error_code(sts.assume_role, RoleArn=role(principal=TASKS), **take) == "AccessDenied"
    assert error_code(sts.assume_role, RoleArn=f"arn:aws:iam::{ACCOUNT}:role/absent", **take) == "AccessDenied"
    assert error_code(sts.assume_role, RoleArn=role(), DurationSeconds=7200, **take) == "ValidationError"
    assert error_code(sts.assume_role, RoleArn=role(), Policy=policy(statement("*")), **take) == "ValidationError"
    # A role takes on another one where both agree, or where the other one names it.
    open_to_all = role()
    first = role(statement("sts:AssumeRole", open_to_all))
    named = role(principal={"AWS": first})
    client = session(first)("sts")
    client.assume_role(RoleArn=open_to_all, **take)
    client.assume_role(RoleArn=named, **take)
    assert error_code(client.assume_role, RoleArn=role(), **take) == "AccessDenied"
    assert error_code(client.assume_role, RoleArn=open_to_all, DurationSeconds=7200, **take) == "ValidationError"


def test_credentials_that_were_changed_are_refused(server, role):
    arn = role(statement("ecs:*"))
    made = server.client("sts").assume_role(RoleArn=arn, RoleSessionName="tester")["Credentials"]
    other = server.client("sts").assume_role(RoleArn=arn, RoleSessionName="tester")["Credentials"]
    token = made["SessionToken"]
    middle = len(token) // 2
    changed = token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1:]
    for changes, code in [
        ({"aws_session_token": changed}, "UnrecognizedClientException"),
        ({"aws_session_token": other["SessionToken"]}, "UnrecognizedClientException"),
        ({"aws_session_token": "A" * 4000}, "UnrecognizedClientException"),
        ({"aws_session_token": None}, "InvalidSignatureException"),
        ({"aws_secret_access_key": other["SecretAccessKey"]}, "InvalidSignatureException"),
    ]:
        assert error_code(client_of(server, made, "ecs", **changes).list_clusters) == code, changes
    client_of(server, made, "ecs").list_clusters()


def test_sessions_end_with_their_role(iam, server):
    names = [f"r-{uuid.uuid4().hex[:12]}" for _ in range(2)]
    name = names[0]
    arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust(ROOT))["Role"]["Arn"]
    iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=policy(statement("*")))
    made = server.client("sts").assume_role(RoleArn=arn, RoleSessionName="tester")["Credentials"]
    ecs = client_of(server, made, "ecs")
    ecs.list_clusters()
    iam.delete_role_policy(RoleName=name, PolicyName="own")
    iam.delete_role(RoleName=name)
    assert error_code(ecs.list_clusters) == "UnrecognizedClientException"
    # Another one of the same name is another one.
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust(ROOT))
    iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=policy(statement("*")))
    assert error_code(ecs.list_clusters) == "UnrecognizedClientException"
    iam.delete_role_policy(RoleName=name, PolicyName="own")
    iam.delete_role(RoleName=name)


def test_sessions_of_the_root_user(server):
    made = server.client("sts").get_session_token(DurationSeconds=900)["Credentials"]
    assert made["AccessKeyId"].startswith("ASIA")
    shown = client_of(server, made, "sts").get_caller_identity()
    assert shown["Arn"] == f"arn:aws:iam::{ACCOUNT}:root"
    client_of(server, made, "iam").list_roles()


def test_sessions_outlive_the_server(server_directory):
    directory = server_directory()
    first = Server(directory)
    made = first.client("sts").get_session_token()["Credentials"]
    first.stop()
    second = Server(directory)
    try:
        assert client_of(second, made, "sts").get_caller_identity()["Arn"].endswith(":root")
    finally:
        second.stop()


def test_sessions_do_not_renew_themselves(server):
    made = server.client("sts").get_session_token()["Credentials"]
    assert error_code(client_of(server, made, "sts").get_session_token) == "AccessDenied"


def with_body(client, operation, body, **headers):
    """Has a client send this body for an operation, signed."""
    def change(request, **_):
        request.data = json.dumps(body).encode()
        for name, value in headers.items():
            del request.headers[name.replace("_", "-")]
            request.headers[name.replace("_", "-")] = value
    client.meta.events.register(f"before-sign.ecs.{operation}", change)
    return client


def test_only_what_an_operation_reads_says_what_it_acts_on(role, session):
    ecs_arn, denied = f"arn:aws:ecs:us-east-1:{ACCOUNT}", "AccessDeniedException"
    own = [statement("ecs:StopTask", f"{ecs_arn}:task/mine/*"), statement("ecs:DescribeClusters", f"{ecs_arn}:cluster/mine"),
           statement("ecs:TagResource", f"{ecs_arn}:cluster/arn*"),
           statement("ecs:ListClusters", Condition={"ArnEquals": {"ecs:cluster": f"{ecs_arn}:cluster/mine"}})]
    client = session(role(*own))
    assert client("ecs").describe_clusters(clusters=["mine"])["failures"]
    task = "0123456789abcdef0123456789abcdef"
    # A member that the operation does not have.
    other = with_body(client("ecs"), "StopTask", {"clusterName": "mine", "task": task})
    assert error_code(other.stop_task, task=task) == denied
    # A body that is a form for one reader and JSON for another.
    both = with_body(client("ecs"), "DescribeClusters", {"x": "&clusters.member.1=mine&x=", "clusters": [CLUSTER]},
                     Content_Type="application/x-www-form-urlencoded")
    assert error_code(both.describe_clusters, clusters=[CLUSTER]) == denied
    # An ARN within an ARN.
    within = f"{ecs_arn}:cluster/{ecs_arn}:cluster/{CLUSTER}"
    assert error_code(client("ecs").tag_resource, resourceArn=within, tags=[{"key": "a", "value": "b"}]) == denied
    # A cluster that the operation does not ask for.
    asked = with_body(client("ecs"), "ListClusters", {"cluster": "mine"})
    assert error_code(asked.list_clusters) == denied


def test_tasks_have_roles_that_may_be_theirs(ecs, register, run, role, session, subnet):
    refused = "ClientException"
    assert error_code(register, taskRoleArn="not a role") == refused
    register(taskRoleArn=f"arn:aws:iam::{ACCOUNT}:role/absent")
    assert error_code(run) == refused
    assert error_code(run, overrides={"taskRoleArn": role(principal=ROOT)}) == refused
    tasks, family = role(principal=TASKS), {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}
    without = session(role(statement("ecs:*")))("ecs")
    allowed = session(role(statement("ecs:*"), statement("iam:PassRole", tasks, Condition=family)))("ecs")
    definition = {"family": f"f-{uuid.uuid4().hex[:12]}", "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc",
                  "cpu": "256", "memory": "512", "containerDefinitions": [{"name": "main", "image": "probe"}],
                  "taskRoleArn": tasks}
    assert error_code(without.register_task_definition, **definition) == "AccessDeniedException"
    made = allowed.register_task_definition(**definition)["taskDefinition"]
    assert made["taskRoleArn"] == tasks
    assert urllib.parse.unquote(made["taskDefinitionArn"]).endswith(f"{definition['family']}:1")
    network = {"awsvpcConfiguration": {"subnets": [subnet]}}
    for overrides in ({}, {"taskRoleArn": ""}, {"taskRoleArn": tasks}):
        assert error_code(without.run_task, cluster=CLUSTER, taskDefinition=made["taskDefinitionArn"], overrides=overrides,
                          launchType="FARGATE", networkConfiguration=network) == "AccessDeniedException"
    other = {**definition, "taskRoleArn": role(principal=TASKS)}
    assert error_code(allowed.register_task_definition, **other) == "AccessDeniedException"

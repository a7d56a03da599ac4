"""Task definitions: revisions, what comes back, and what is refused."""

import pytest

from errors import refused

PLAIN = {"name": "main", "image": "probe"}
FARGATE = {"requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc", "cpu": "256", "memory": "512"}


def test_revisions_count_up(ecs, family, register):
    assert [register()["revision"] for _ in range(3)] == [1, 2, 3]
    latest = ecs.describe_task_definition(taskDefinition=family)["taskDefinition"]
    assert latest["revision"] == 3
    assert latest["taskDefinitionArn"] == f"arn:aws:ecs:us-east-1:123456789012:task-definition/{family}:3"
    ecs.deregister_task_definition(taskDefinition=f"{family}:3")
    assert ecs.describe_task_definition(taskDefinition=family)["taskDefinition"]["revision"] == 2
    assert register()["revision"] == 4
    listed = ecs.list_task_definitions(familyPrefix=family)["taskDefinitionArns"]
    assert [arn.rsplit(":", 1)[1] for arn in listed] == ["1", "2", "4"]
    backwards = ecs.list_task_definitions(familyPrefix=family, sort="DESC")["taskDefinitionArns"]
    assert backwards == listed[::-1]
    inactive = ecs.list_task_definitions(familyPrefix=family, status="INACTIVE")["taskDefinitionArns"]
    assert [arn.rsplit(":", 1)[1] for arn in inactive] == ["3"]
    assert ecs.list_task_definition_families(familyPrefix=family)["families"] == [family]


def test_delete_needs_deregistration(ecs, family, register):
    register()
    answer = ecs.delete_task_definitions(taskDefinitions=[f"{family}:1"])
    assert answer["taskDefinitions"] == [] and len(answer["failures"]) == 1
    ecs.deregister_task_definition(taskDefinition=f"{family}:1")
    answer = ecs.delete_task_definitions(taskDefinitions=[f"{family}:1"])
    assert answer["failures"] == []
    assert answer["taskDefinitions"][0]["status"] == "DELETE_IN_PROGRESS"


def test_comes_back_as_it_was_sent(ecs, family):
    container = {
        "name": "main", "image": "busybox:latest", "cpu": 10, "memory": 128, "memoryReservation": 64, "essential": True,
        "entryPoint": ["sh"], "command": ["-c", "true"], "workingDirectory": "/tmp", "user": "1000:1000",
        "environment": [{"name": "A", "value": "b"}], "stopTimeout": 5, "readonlyRootFilesystem": True,
        "ulimits": [{"name": "nofile", "softLimit": 1024, "hardLimit": 2048}], "dockerLabels": {"x": "y"},
        "portMappings": [{"containerPort": 80, "hostPort": 80, "protocol": "tcp"}],
        "healthCheck": {"command": ["CMD-SHELL", "true"], "interval": 10, "timeout": 3, "retries": 2, "startPeriod": 1},
        "logConfiguration": {"logDriver": "awslogs", "options": {
            "awslogs-group": "/g", "awslogs-region": "us-east-1", "awslogs-stream-prefix": "p"}},
    }
    ecs.register_task_definition(family=family, containerDefinitions=[container], **FARGATE,
                                 ephemeralStorage={"sizeInGiB": 21}, tags=[{"key": "a", "value": "b"}])
    answer = ecs.describe_task_definition(taskDefinition=family, include=["TAGS"])
    definition = answer["taskDefinition"]
    returned = definition["containerDefinitions"][0]
    assert {key: returned.get(key) for key in container} == container
    assert definition["ephemeralStorage"] == {"sizeInGiB": 21}
    assert definition["status"] == "ACTIVE" and definition["compatibilities"] == ["EC2", "FARGATE"]
    assert answer["tags"] == [{"key": "a", "value": "b"}]
    assert definition["registeredAt"].timestamp() > 0


SIZES = {
    "256": [512, 1024, 2048], "512": [1024, 4096], "1024": [2048, 8192], "2048": [4096, 16384],
    "4096": [8192, 30720], "8192": [16384, 61440], "16384": [32768, 122880],
}


@pytest.mark.parametrize("cpu,memory", [(cpu, memory) for cpu, sizes in SIZES.items() for memory in sizes])
def test_fargate_sizes(ecs, family, cpu, memory):
    size = {**FARGATE, "cpu": cpu, "memory": str(memory)}
    definition = ecs.register_task_definition(family=family, containerDefinitions=[PLAIN], **size)["taskDefinition"]
    assert (definition["cpu"], definition["memory"]) == (cpu, str(memory))


@pytest.mark.parametrize("cpu,memory,expected", [
    ("1 vCPU", "2 GB", ("1024", "2048")), (".5 vcpu", "1GB", ("512", "1024")), ("0.25 vCPU", "0.5 GB", ("256", "512"))])
def test_sizes_in_words(ecs, family, cpu, memory, expected):
    size = {**FARGATE, "cpu": cpu, "memory": memory}
    definition = ecs.register_task_definition(family=family, containerDefinitions=[PLAIN], **size)["taskDefinition"]
    assert (definition["cpu"], definition["memory"]) == expected


@pytest.mark.parametrize("change,code,text", [
    ({"cpu": "256", "memory": "4096"}, "ClientException", "No Fargate configuration exists for given values."),
    ({"cpu": "4096", "memory": "8193"}, "ClientException", "No Fargate configuration exists for given values."),
    ({"cpu": "300"}, "ClientException", "Invalid 'cpu' setting for task."),
    ({"cpu": None}, "ClientException", "Fargate requires that 'cpu' be defined at the task level."),
    ({"cpu": "much"}, "ClientException", "Invalid 'cpu' setting for task."),
    ({"pidMode": "host"}, "ClientException",
     "Tasks using the Fargate launch type do not support pidMode 'host'. The supported value for pidMode is 'task'."),
    ({"ipcMode": "host"}, "ClientException", "ipcMode"),
    ({"ipcMode": "task"}, "ClientException", "ipcMode"),
    ({"networkMode": "bridge"}, "ClientException", "awsvpc"),
    ({"networkMode": "host"}, "ClientException", "host"),
    ({"ephemeralStorage": {"sizeInGiB": 20}}, None, "21"),
    ({"ephemeralStorage": {"sizeInGiB": 201}}, None, "200"),
])
def test_refuses_task_settings(ecs, family, change, code, text):
    settings = {key: value for key, value in {**FARGATE, **change}.items() if value is not None}
    with pytest.raises(Exception) as caught:
        ecs.register_task_definition(family=family, containerDefinitions=[PLAIN], **settings)
    error = caught.value.response["Error"]
    assert error["Code"] == code or (code is None and error["Code"] in ("ClientException", "InvalidParameterException"))
    assert text in error["Message"], error


def test_needs_memory_somewhere(ecs, family):
    with refused("ClientException", part="Invalid setting for container 'main'. "
                 "At least one of 'memory' or 'memoryReservation' must be specified."):
        ecs.register_task_definition(family=family, containerDefinitions=[PLAIN])


@pytest.mark.parametrize("containers,part", [
    ([{**PLAIN, "name": f"c{i}"} for i in range(11)], "10"),
    ([{**PLAIN, "essential": False}], "essential"),
    ([PLAIN, PLAIN], "main"),
    ([{"name": "main"}], "Container.image should not be null or empty."),
    ([{**PLAIN, "dependsOn": [{"containerName": "main", "condition": "START"}]}], "main"),
    ([{**PLAIN, "dependsOn": [{"containerName": "absent", "condition": "START"}]}], "absent"),
    ([{**PLAIN, "name": "a", "dependsOn": [{"containerName": "b", "condition": "START"}]},
      {**PLAIN, "name": "b", "dependsOn": [{"containerName": "c", "condition": "START"}]},
      {**PLAIN, "name": "c", "dependsOn": [{"containerName": "a", "condition": "START"}]}], ""),
    ([PLAIN, {**PLAIN, "name": "b", "dependsOn": [{"containerName": "main", "condition": "COMPLETE"}]}], "main"),
    ([PLAIN, {**PLAIN, "name": "b", "dependsOn": [{"containerName": "main", "condition": "HEALTHY"}]}], "main"),
    ([{**PLAIN, "dependsOn": [{"containerName": "main", "condition": "NEVER"}]}], ""),
    ([{**PLAIN, "mountPoints": [{"sourceVolume": "absent", "containerPath": "/x"}]}], "absent"),
    ([{**PLAIN, "linuxParameters": {"capabilities": {"add": ["SYS_ADMIN"]}}}], "SYS_ADMIN"),
    ([{**PLAIN, "privileged": True}], "privileged"),
    ([{**PLAIN, "memory": 5}], "6"),
    ([{**PLAIN, "memory": 64, "memoryReservation": 65}], "memoryReservation"),
    ([{**PLAIN, "stopTimeout": 121}], "120"),
])
def test_refuses_containers(ecs, family, containers, part):
    with pytest.raises(Exception) as caught:
        ecs.register_task_definition(family=family, containerDefinitions=containers, **FARGATE)
    error = caught.value.response["Error"]
    assert error["Code"] in ("ClientException", "InvalidParameterException"), error
    assert part in error["Message"], error


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "x" * 256, "a:1", "\x1b[31m"])
def test_refuses_family_names(ecs, name):
    with pytest.raises(Exception) as caught:
        ecs.register_task_definition(family=name, containerDefinitions=[PLAIN], **FARGATE)
    assert caught.value.response["Error"]["Code"] in ("ClientException", "InvalidParameterException")


@pytest.mark.parametrize("name", ["no-such-family", "no-such-family:7",
                                  "arn:aws:ecs:us-east-1:123456789012:task-definition/absent:1"])
def test_unknown_definition(ecs, name):
    with refused("ClientException"):
        ecs.describe_task_definition(taskDefinition=name)


def test_revision_zero(ecs):
    with refused("InvalidParameterException", part="x:0"):
        ecs.describe_task_definition(taskDefinition="x:0")

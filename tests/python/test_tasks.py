"""Tasks: the answers that AWS was recorded to give, idempotency, waiters and lists."""

import concurrent.futures
import time

import pytest

from conftest import CLUSTER, needs_root, needs_wasm
from errors import refused

pytestmark = needs_wasm


def test_accepted_task_has_the_recorded_shape(register, run, family, subnet):
    register()
    answer = run()
    assert answer["failures"] == []
    task = answer["tasks"][0]
    expected = {
        "lastStatus": "PROVISIONING", "desiredStatus": "RUNNING", "version": 1, "launchType": "FARGATE",
        "platformVersion": "1.4.0", "platformFamily": "Linux", "cpu": "256", "memory": "512",
        "ephemeralStorage": {"sizeInGiB": 20}, "enableExecuteCommand": False, "inferenceAccelerators": [], "tags": [],
        "group": f"family:{family}", "attributes": [{"name": "ecs.cpu-architecture", "value": "x86_64"}],
        "overrides": {"containerOverrides": [{"name": "main"}], "inferenceAcceleratorOverrides": []},
    }
    returned = {key: task.get(key) for key in expected}
    # botocore leaves out what is empty differently than AWS sends it; names are what clients read.
    overrides = returned["overrides"]["containerOverrides"]
    assert [override["name"] for override in overrides] == ["main"]
    returned["overrides"] = expected["overrides"]
    assert returned == expected
    assert task["clusterArn"].endswith(f":cluster/{CLUSTER}")
    assert f":task/{CLUSTER}/" in task["taskArn"] and len(task["taskArn"].rsplit("/", 1)[1]) == 32
    assert task["availabilityZone"].startswith("us-east-1")
    attachment = task["attachments"][0]
    assert (attachment["type"], attachment["status"]) == ("ElasticNetworkInterface", "PRECREATED")
    assert attachment["details"] == [{"name": "subnetId", "value": subnet}]
    for absent in ["stoppedReason", "stopCode", "startedAt", "stoppedAt"]:
        assert absent not in task
    container = task["containers"][0]
    wanted = {"name": "main", "image": "probe", "lastStatus": "PENDING", "taskArn": task["taskArn"], "cpu": "0",
              "networkInterfaces": []}
    assert {key: container.get(key) for key in wanted} == wanted
    assert "exitCode" not in container and "reason" not in container


def test_stopped_task_has_the_recorded_shape(register, run, until_stopped):
    register()
    task = until_stopped(run()["tasks"][0]["taskArn"])
    assert (task["lastStatus"], task["desiredStatus"]) == ("STOPPED", "STOPPED")
    assert task["stopCode"] == "EssentialContainerExited"
    assert task["stoppedReason"] == "Essential container in task exited"
    stamps = [task[name].timestamp() for name in
              ["createdAt", "pullStartedAt", "pullStoppedAt", "startedAt", "stoppingAt", "executionStoppedAt", "stoppedAt"]]
    assert stamps == sorted(stamps)
    assert task["version"] > 1 and task["connectivity"] == "CONNECTED"
    container = task["containers"][0]
    assert (container["lastStatus"], container["exitCode"]) == ("STOPPED", 0)
    assert container["imageDigest"].startswith("sha256:") and container["runtimeId"]


def test_missing_image_has_the_recorded_shape(register, run, until_stopped):
    register(image="docker.io/library/no_such_image:latest")
    answer = run()
    assert answer["failures"] == []
    task = until_stopped(answer["tasks"][0]["taskArn"])
    assert task["stopCode"] == "TaskFailedToStart"
    assert task["stoppedReason"].startswith("CannotPullContainerError: ")
    assert "no_such_image" in task["stoppedReason"]
    assert task["containers"][0]["lastStatus"] == "STOPPED"
    for absent in ["exitCode"]:
        assert absent not in task["containers"][0]
    assert "startedAt" not in task


@pytest.mark.parametrize("command,code", [(["exit", "0"], 0), (["exit", "3"], 3), (["trap"], 134)])
def test_exit_codes(register, run, until_stopped, command, code):
    register(command)
    assert until_stopped(run()["tasks"][0]["taskArn"])["containers"][0]["exitCode"] == code


@needs_root
@pytest.mark.parametrize("script,code", [
    ("exit 0", 0), ("exit 255", 255), ("sh -c 'kill -9 $$'; exit $?", 137), ("sh -c 'kill -11 $$'; exit $?", 139)])
def test_container_exit_codes(register, run, until_stopped, script, code):
    register(["sh", "-c", script], image="busybox")
    assert until_stopped(run()["tasks"][0]["taskArn"])["containers"][0]["exitCode"] == code


@needs_root
@pytest.mark.parametrize("entry,code", [(["/no/such/program"], "CannotStartContainerError"),
                                        (["/etc/passwd"], "CannotStartContainerError")])
def test_row_23_container_that_cannot_start(register, run, until_stopped, entry, code):
    register([], image="busybox", container={"entryPoint": entry})
    task = until_stopped(run()["tasks"][0]["taskArn"])
    assert task["stopCode"] == "TaskFailedToStart"
    assert code in task["containers"][0].get("reason", "") + task["stoppedReason"], task
    assert "exitCode" not in task["containers"][0]


@needs_root
def test_out_of_memory_is_named(register, run, until_stopped):
    register(["tail", "/dev/zero"], image="busybox", container={"memory": 32})
    container = until_stopped(run()["tasks"][0]["taskArn"])["containers"][0]
    assert container["exitCode"] == 137
    assert container["reason"] == "OutOfMemoryError: Container killed due to memory usage"


def test_stop(ecs, register, run, until_stopped):
    register(["tick", "60000"], container={"stopTimeout": 2})
    arn = run()["tasks"][0]["taskArn"]
    stopped = ecs.stop_task(cluster=CLUSTER, task=arn, reason="a person asked")["task"]
    assert stopped["desiredStatus"] == "STOPPED"
    task = until_stopped(arn)
    assert (task["stopCode"], task["stoppedReason"]) == ("UserInitiated", "a person asked")
    assert ecs.stop_task(cluster=CLUSTER, task=arn)["task"]["lastStatus"] == "STOPPED"


def test_waiters(ecs, register, run):
    register(["tick", "7000"])
    arn = run()["tasks"][0]["taskArn"]
    ecs.get_waiter("tasks_running").wait(cluster=CLUSTER, tasks=[arn], WaiterConfig={"Delay": 1, "MaxAttempts": 6})
    ecs.get_waiter("tasks_stopped").wait(cluster=CLUSTER, tasks=[arn], WaiterConfig={"Delay": 1, "MaxAttempts": 30})


def test_row_45_client_token_a_hundred_times_at_once(ecs, register, run, family):
    register()
    token = f"token-{family}"
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        calls = [pool.submit(run, clientToken=token, count=2) for _ in range(100)]
        answers = [call.result() for call in calls]
    arns = {tuple(task["taskArn"] for task in answer["tasks"]) for answer in answers}
    assert len(arns) == 1 and len(next(iter(arns))) == 2
    time.sleep(0.2)
    listed = sum((ecs.list_tasks(cluster=CLUSTER, family=family, desiredStatus=status)["taskArns"]
                  for status in ["RUNNING", "STOPPED"]), [])
    assert set(listed) == set(next(iter(arns)))
    with refused("ConflictException") as caught:
        run(clientToken=token, count=1)
    assert set(caught.value.response["resourceIds"]) == set(next(iter(arns)))


def test_stamps_and_started_by(ecs, register, run, until_stopped, family):
    register()
    arn = run(startedBy="me", group="crew", propagateTags="TASK_DEFINITION",
              tags=[{"key": "a", "value": "b"}])["tasks"][0]["taskArn"]
    task = until_stopped(arn)
    assert (task["startedBy"], task["group"]) == ("me", "crew")
    assert {"key": "a", "value": "b"} in task["tags"]
    assert ecs.list_tasks(cluster=CLUSTER, startedBy="me", desiredStatus="STOPPED")["taskArns"] == [arn]


def test_describe_missing(ecs):
    missing = "f" * 32
    answer = ecs.describe_tasks(cluster=CLUSTER, tasks=[missing])
    assert answer["tasks"] == []
    assert answer["failures"][0]["reason"] == "MISSING"
    assert answer["failures"][0]["arn"].endswith(missing)
    with refused("InvalidParameterException"):
        ecs.describe_tasks(cluster=CLUSTER, tasks=[missing] * 101)
    with refused("InvalidParameterException", "The referenced task was not found."):
        ecs.stop_task(cluster=CLUSTER, task=missing)


def test_refuses_requests(ecs, register, run):
    register()
    with refused("ClusterNotFoundException", "Cluster not found."):
        run(cluster="absent")
    with refused("InvalidParameterException",
                 part="Network Configuration must be provided when networkMode 'awsvpc' is specified."):
        run(networkConfiguration={})
    for change in [{"count": 11}, {"count": 0}, {"startedBy": "x" * 129},
                   {"capacityProviderStrategy": [{"capacityProvider": "FARGATE"}]},
                   {"overrides": {"containerOverrides": [{"name": "absent"}]}},
                   {"overrides": {"containerOverrides": [{"name": "main", "command": ["x" * 9000]}]}}]:
        with pytest.raises(Exception) as caught:
            run(**change)
        assert caught.value.response["Error"]["Code"] in ("InvalidParameterException", "ClientException"), change


def test_more_than_the_machine_has_is_a_failure(ecs, family, run):
    ecs.register_task_definition(
        family=family, requiresCompatibilities=["FARGATE"], networkMode="awsvpc", cpu="16384", memory="122880",
        containerDefinitions=[{"name": "main", "image": "probe"}])
    answer = run()
    assert answer["tasks"] == []
    assert answer["failures"][0]["reason"] in ("RESOURCE:CPU", "RESOURCE:MEMORY")


def test_pending_is_never_listed(ecs):
    assert ecs.list_tasks(cluster=CLUSTER, desiredStatus="PENDING")["taskArns"] == []


def test_unimplemented_operations_say_so(ecs):
    with refused("UnsupportedFeatureException"):
        ecs.create_service(cluster=CLUSTER, serviceName="web", taskDefinition="x", desiredCount=1)

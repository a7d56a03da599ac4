"""Images that come from a registry of somebody else's, as users would have them: by hand, and because a task needs them."""

import json
import os
import shutil
import subprocess
import time
import uuid

import pytest

import conftest
import foreign
from conftest import BINARY, CLUSTER, FIXTURES, needs_root

pytestmark = pytest.mark.skipif(
    not all(shutil.which(program) for program in ["docker-registry", "skopeo", "htpasswd", "openssl"]),
    reason="docker-registry, skopeo, htpasswd or openssl is absent; `cargo xtask setup` installs them")


@pytest.fixture(scope="module")
def registries(tmp_path_factory):
    """Makes registries; all are stopped at the end."""
    made = []

    def registries(kind="open"):
        made.append(foreign.Foreign(tmp_path_factory.mktemp("registry"), kind))
        return made[-1]

    yield registries
    for registry in made:
        registry.stop()


@pytest.fixture(scope="module")
def registry(registries):
    return registries()


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """Makes layouts of an image with busybox, and a file that says which."""
    def layout(text, *more, index=False, entrypoint="/bin/busybox", below="shared"):
        made = foreign.Layout(tmp_path_factory.mktemp("layout"))
        base = foreign.archive({"bin/busybox": foreign.busybox(FIXTURES), "below": below.encode()})
        top = foreign.archive({"which": text.encode(), **{f"more/{n}": part for n, part in enumerate(more)}})
        config = {"Entrypoint": [entrypoint], "Env": ["PATH=/bin"]}
        manifest = made.manifest([base, top], config)
        if not index:
            return made.finish(manifest)
        other = made.manifest([foreign.archive({"which": b"other"})], config, foreign.OTHER)
        return made.finish(made.index([other, manifest]))

    return layout


@pytest.fixture
def neargate(tmp_path):
    """Runs `neargate image …` on data of its own."""
    tmp_path.chmod(0o755)

    def neargate(*arguments, code=0, **environment):
        command = [BINARY, "image", *arguments, "--data", str(tmp_path / "data")]
        environment = {**os.environ, "HOME": str(tmp_path), **environment}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == code, f"{arguments}: {done.stderr}"
        return done.stdout if code == 0 else done.stderr

    return neargate


def listed(neargate):
    return {image["name"]: image for image in json.loads(neargate("ls", "--output", "json"))}


@pytest.mark.parametrize("options", [[], ["--dest-compress-format", "zstd"], ["--format", "v2s2"]],
                         ids=["gzip", "zstd", "docker"])
def test_images_of_every_kind(registry, layout, neargate, options):
    kind = "-".join(options).strip("-") or "gzip"
    # skopeo mounts what it has pushed before, however that was compressed.
    reference = registry.push(layout(kind, below=kind), f"kinds/{uuid.uuid4().hex[:8]}:1", "--dest-compress", *options)
    printed = neargate("pull", reference)
    assert printed.startswith(reference + " sha256:")
    assert listed(neargate)[reference]["kind"] == "oci"
    history = json.loads(neargate("history", reference, "--output", "json"))
    assert [step["created_by"] for step in history] == ["COPY layer 1", "COPY layer 0"]
    assert all(step["size_bytes"] > 0 for step in history)


def test_an_index_and_its_platforms(registry, layout, neargate):
    reference = registry.push(layout("index", index=True), "platforms:1", "--all")
    neargate("pull", reference)
    inspected = json.loads(neargate("inspect", reference, "--output", "json"))
    assert foreign.ARCHITECTURE in json.dumps(inspected)
    neargate("pull", reference, "--platform", f"linux/{foreign.OTHER}")
    assert foreign.OTHER in json.dumps(json.loads(neargate("inspect", reference, "--output", "json")))
    problem = neargate("pull", reference, "--platform", "linux/mips", code=1)
    assert f"linux/{foreign.OTHER}" in problem and "linux/mips" in problem


def test_layers_that_are_here_are_not_fetched(registry, layout, neargate):
    first, second = (registry.push(layout(text), f"share/{text}:1") for text in ["one", "two"])
    neargate("pull", first)
    before = registry.log().count("GET /v2/share/two/blobs/")
    neargate("pull", second)
    # The configuration and the upper layer; the lower one is only asked for.
    gets = [line for line in registry.log().splitlines() if '"GET /v2/share/two/blobs/' in line and "HTTP/1.1" in line]
    assert before == 0 and len(gets) == 2, gets


def test_a_pinned_image(registry, layout, neargate):
    reference = registry.push(layout("pinned"), "pinned:1")
    digest = neargate("pull", reference).split()[1]
    repository = reference.rsplit(":", 1)[0]
    neargate("pull", f"{repository}@{digest}")
    problem = neargate("pull", f"{repository}@sha256:{'0' * 64}", code=1)
    assert "failed to resolve ref" in problem and "not found" in problem


@pytest.mark.parametrize("kind", ["password", "tokens"])
def test_private_registries(registries, layout, neargate, tmp_path, kind):
    registry = registries(kind)
    reference = registry.push(layout(kind), "private/app:1")
    problem = neargate("pull", reference, code=1)
    assert "pull access denied" in problem and foreign.PASSWORD not in problem
    # Of Docker's configuration, by a helper, and by the data directory's own file.
    docker = tmp_path / "docker"
    docker.mkdir()
    (docker / "config.json").write_text(registry.auth())
    neargate("pull", reference, DOCKER_CONFIG=str(docker))
    helper = docker / "docker-credential-test"
    answer = json.dumps({"ServerURL": "x", "Username": foreign.USER, "Secret": foreign.PASSWORD})
    helper.write_text(f"#!/bin/sh\nread server\n[ \"$server\" = {registry.address} ] && echo '{answer}'\n")
    helper.chmod(0o755)
    (docker / "config.json").write_text(json.dumps({"credHelpers": {registry.address: "test"}}))
    neargate("pull", reference, DOCKER_CONFIG=str(docker), PATH=f"{docker}:{os.environ['PATH']}")
    (docker / "config.json").write_text(json.dumps({"auths": {registry.address: {"auth": "cHVsbGVyOndyb25n"}}}))
    assert "denied" in neargate("pull", reference, code=1, DOCKER_CONFIG=str(docker))
    (tmp_path / "data/registry-auth.json").write_text(registry.auth())
    neargate("pull", reference, DOCKER_CONFIG="/nowhere")


def test_mirrors(registry, layout, neargate, tmp_path):
    registry.push(layout("mirrored"), "library/mirrored:1")
    neargate("ls")
    (tmp_path / "data/registries.json").write_text(json.dumps(
        {"registries": {"docker.io": {"mirrors": [f"http://{registry.address}"]}}}))
    neargate("pull", "mirrored:1")
    assert "docker.io/library/mirrored:1" in listed(neargate)
    (tmp_path / "data/registries.json").write_text('{"registries": {"docker.io": {"mirror": []}}}')
    problem = neargate("pull", "mirrored:1", code=1)
    assert "registries.json" in problem and "mirror" in problem


def test_many_files_and_a_large_one_arrive_whole(registry, layout, neargate, tmp_path):
    parts = [os.urandom(50 << 20), *(bytes([n % 256]) * n for n in range(1, 500))]
    reference = registry.push(layout("large", *parts), "large:1")
    neargate("pull", reference)
    # Unpacked by others than who looks, so that root looks.
    found = [path for path in (tmp_path / "data/images/layers").glob("*/more/*")]
    if os.geteuid() == 0 or found:
        assert {path.name: path.read_bytes() for path in found} == {str(n): part for n, part in enumerate(parts)}


@pytest.fixture(scope="module")
def pulling_server(server_directory):
    server = conftest.Server(server_directory(), "--vpc-block", "172.31.0.0/16", "--dns-server", "127.0.0.1:1")
    server.client("ecs").create_cluster(clusterName=CLUSTER)
    yield server
    server.stop()


def run_task(server, family, image, command, containers=1):
    ecs = server.client("ecs")
    definitions = [{"name": f"c{n}", "image": image, "command": command} for n in range(containers)]
    ecs.register_task_definition(family=family, requiresCompatibilities=["FARGATE"], networkMode="awsvpc", cpu="256",
                                 memory="512", containerDefinitions=definitions)
    subnet = server.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
    network = {"awsvpcConfiguration": {"subnets": [subnet]}}
    answer = ecs.run_task(cluster=CLUSTER, taskDefinition=family, launchType="FARGATE", networkConfiguration=network)
    assert answer["failures"] == [], answer
    arn = answer["tasks"][0]["taskArn"]
    ecs.get_waiter("tasks_stopped").wait(cluster=CLUSTER, tasks=[arn], WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    return ecs.describe_tasks(cluster=CLUSTER, tasks=[arn])["tasks"][0]


@needs_root
def test_a_task_pulls_its_image(pulling_server, registry, layout, family):
    reference = registry.push(layout("task"), "task:1")
    task = run_task(pulling_server, family, reference, ["grep", "-q", "task", "/which"], containers=2)
    assert task["stopCode"] == "EssentialContainerExited", task
    assert [container["exitCode"] for container in task["containers"]] == [0, 0]
    # The first may have ended before the second was started, and then the task as a whole never ran.
    assert task["pullStartedAt"] <= task["pullStoppedAt"] <= task.get("startedAt", task["stoppedAt"])
    digests = {container["imageDigest"] for container in task["containers"]}
    assert len(digests) == 1 and digests.pop().startswith("sha256:")


@needs_root
def test_a_tag_that_was_moved(pulling_server, registry, layout, family):
    reference = registry.push(layout("before"), "moved:1")
    first = run_task(pulling_server, family, reference, ["grep", "-q", "before", "/which"])
    assert first["containers"][0]["exitCode"] == 0, first
    registry.push(layout("after"), "moved:1")
    time.sleep(10.5)  # for so long an answer of the registry is believed
    second = run_task(pulling_server, family, reference, ["grep", "-q", "after", "/which"])
    assert second["containers"][0]["exitCode"] == 0, second
    assert first["containers"][0]["imageDigest"] != second["containers"][0]["imageDigest"]


@needs_root
def test_registering_a_definition_fetches_its_image(pulling_server, registry, layout, family):
    reference = registry.push(layout("ahead"), "ahead:1")
    pulling_server.client("ecs").register_task_definition(
        family=family, containerDefinitions=[{"name": "main", "image": reference, "memory": 64}])
    deadline = time.monotonic() + 60
    while reference not in pulling_server.neargate("image", "ls", "--data", str(pulling_server.data)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_words_for_images_that_cannot_be_had(pulling_server, registries, registry, layout, family):
    task = run_task(pulling_server, family, f"{registry.address}/no_such_image", ["true"])
    assert (task["stopCode"], task["lastStatus"]) == ("TaskFailedToStart", "STOPPED")
    expect = ("CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref "
              f"{registry.address}/no_such_image:latest: {registry.address}/no_such_image:latest: not found")
    assert task["stoppedReason"] == expect
    assert "exitCode" not in task["containers"][0]
    private = registries("tokens")
    reference = private.push(layout("private"), "private:1")
    task = run_task(pulling_server, family, reference, ["true"])
    assert task["stoppedReason"] == (
        "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref "
        f"{reference}: pull access denied, repository does not exist or may require authorization: server message: "
        "insufficient_scope: authorization failed")


def test_repository_credentials_are_refused_until_there_are_secrets(pulling_server, family):
    ecs = pulling_server.client("ecs")
    parameter = "arn:aws:secretsmanager:us-east-1:123456789012:secret:x"
    container = {"name": "main", "image": "r.example/a", "memory": 64,
                 "repositoryCredentials": {"credentialsParameter": parameter}}
    with pytest.raises(ecs.exceptions.ClientException, match="registry-auth.json"):
        ecs.register_task_definition(family=family, containerDefinitions=[container])


@needs_root
def test_neargate_run_pulls(registry, layout, tmp_path):
    tmp_path.chmod(0o755)
    reference = registry.push(layout("run"), "run:1")
    command = [BINARY, "run", "--data", str(tmp_path / "data"), reference, "--", "cat", "/which"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "run"), done.stderr
    command.insert(2, "--pull=never")
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout == "run"
    command[-4] = f"{registry.address}/absent:1"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 125 and "image pull" in done.stderr, done.stderr

"""The registry: skopeo and other clients push and pull, and tasks run what was pushed."""

import json
import os
import re
import shutil
import subprocess
import threading
import uuid

import pytest

from conftest import BINARY, CLUSTER, FIXTURES, MODULE, Server, needs_root, needs_wasm
from oci import (CONFIG, DOCKER_MANIFEST, EMPTY, INDEX, LAYER, MANIFEST, Client, Image, as_json, descriptor, digest,
                 layer, write_layout)
from test_clients import clients

needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="no skopeo")
SHELL = {"Entrypoint": ["/bin/busybox"], "Cmd": ["sh", "-c", "exit 7"]}


@pytest.fixture(scope="session")
def ecr(server):
    return server.client("ecr")


@pytest.fixture(scope="session")
def host(server):
    return server.endpoint.removeprefix("http://")


@pytest.fixture(scope="session")
def password(ecr):
    token = ecr.get_authorization_token()["authorizationData"][0]
    import base64
    return base64.b64decode(token["authorizationToken"]).decode().removeprefix("AWS:")


@pytest.fixture(scope="session")
def registry(server, password):
    return Client(server.endpoint, password)


@pytest.fixture
def name():
    return f"team/app-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def skopeo(tmp_path, host, password):
    """Runs skopeo, logged in."""
    auth = tmp_path / "auth.json"
    environment = {**os.environ, "REGISTRY_AUTH_FILE": str(auth), "HOME": str(tmp_path)}

    def skopeo(*arguments, succeeds=True, stdin=None):
        done = subprocess.run(["skopeo", *arguments], capture_output=True, text=True, env=environment, timeout=120,
                              input=stdin)
        assert (done.returncode == 0) == succeeds, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout if succeeds else done.stderr

    skopeo("login", "--tls-verify=false", "--username", "AWS", "--password-stdin", host, stdin=password)
    return skopeo


@needs_skopeo
def test_skopeo_copies_both_ways(skopeo, host, name, tmp_path):
    image = Image()
    write_layout(tmp_path / "in", image)
    at = f"docker://{host}/{name}"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{tmp_path}/in:v1", f"{at}:v1")
    shown = json.loads(skopeo("inspect", "--tls-verify=false", f"{at}:v1"))
    assert shown["Digest"] == image.digest and shown["RepoTags"] == ["v1"]
    skopeo("copy", "--src-tls-verify=false", f"{at}:v1", f"dir:{tmp_path}/out")
    assert (tmp_path / "out/manifest.json").read_bytes() == image.manifest
    for content in image.blobs:
        assert (tmp_path / "out" / digest(content).split(":")[1]).read_bytes() == content
    # Pushed again, nothing changes; as Docker's format, it is another image.
    skopeo("copy", "--dest-tls-verify=false", f"oci:{tmp_path}/in:v1", f"{at}:v1")
    skopeo("copy", "--dest-tls-verify=false", "--format", "v2s2", f"oci:{tmp_path}/in:v1", f"{at}:docker")
    raw = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"{at}:docker"))
    assert raw["mediaType"] == DOCKER_MANIFEST
    # From one repository to another, with all layers mounted.
    skopeo("copy", "--src-tls-verify=false", "--dest-tls-verify=false", f"{at}:v1", f"{at}-copy:v1")
    assert json.loads(skopeo("list-tags", "--tls-verify=false", at))["Tags"] == ["docker", "v1"]
    skopeo("delete", "--tls-verify=false", f"{at}:docker")
    text = skopeo("inspect", "--tls-verify=false", f"{at}:docker", succeeds=False)
    assert "manifest unknown" in text or "does not exist" in text, text


@needs_skopeo
@pytest.mark.parametrize("aws", list(clients()))
def test_login_by_the_aws_cli(server, host, name, tmp_path, aws):
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **server.environment}

    def run(*command, **more):
        return subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60, **more).stdout

    word = run(aws, "--endpoint-url", server.endpoint, "ecr", "get-login-password")
    auth = str(tmp_path / "auth.json")
    run("skopeo", "login", "--authfile", auth, "--tls-verify=false", "--username", "AWS", "--password-stdin", host,
        input=word)
    write_layout(tmp_path / "in", Image())
    run("skopeo", "copy", "--authfile", auth, "--dest-tls-verify=false", f"oci:{tmp_path}/in:v1",
        f"docker://{host}/{name}:v1")
    text = run(aws, "--endpoint-url", server.endpoint, "ecr", "describe-images", "--repository-name", name,
               "--output", "json")
    assert json.loads(text)["imageDetails"][0]["imageTags"] == ["v1"]


def test_oras_pushes_and_pulls(host, name, password, tmp_path):
    oras = pytest.importorskip("oras.client")
    client = oras.OrasClient(hostname=host, insecure=True, auth_backend="basic")
    client.auth.set_basic_auth("AWS", password)
    (tmp_path / "note.txt").write_text("from oras")
    pushed = client.push(target=f"{host}/{name}:v1", files=[str(tmp_path / "note.txt")], disable_path_validation=True)
    assert pushed.status_code == 201
    assert client.get_tags(f"{host}/{name}") == ["v1"]
    client.pull(target=f"{host}/{name}:v1", outdir=str(tmp_path / "out"))
    found = [path for path in (tmp_path / "out").rglob("note.txt")]
    assert found and found[0].read_text() == "from oras"


@needs_root
@pytest.mark.parametrize("by", ["address", "localhost", "ecr", "digest"])
def test_tasks_run_what_was_pushed(register, run, until_stopped, registry, host, name, by):
    image = Image(directory=FIXTURES / "busybox", config=SHELL)
    registry.push(name, image, "v1")
    port = host.rsplit(":", 1)[1]
    names = {"address": f"{host}/{name}:v1", "localhost": f"localhost:{port}/{name}:v1",
             "ecr": f"123456789012.dkr.ecr.us-east-1.amazonaws.com/{name}:v1", "digest": f"{host}/{name}@{image.digest}"}
    register(command=["sh", "-c", "exit 7"], image=names[by])
    task = until_stopped(run()["tasks"][0]["taskArn"])
    assert task["containers"][0].get("exitCode") == 7, task
    assert task["containers"][0]["imageDigest"] == image.digest


@needs_root
def test_a_moved_tag_is_run_and_a_deleted_image_is_not(register, run, until_stopped, registry, host, name):
    for code in [3, 4]:
        image = Image(directory=FIXTURES / "busybox", config={**SHELL, "Env": [f"CODE={code}"]})
        registry.push(name, image, "v1")
        register(command=["sh", "-c", "exit $CODE"], image=f"{host}/{name}:v1")
        task = until_stopped(run()["tasks"][0]["taskArn"])
        assert task["containers"][0].get("exitCode") == code, task
    assert registry.send("DELETE", f"/v2/{name}/manifests/{image.digest}").status == 202
    task = until_stopped(run()["tasks"][0]["taskArn"])
    assert "CannotPullContainerError" in task["stoppedReason"] and "not found" in task["stoppedReason"], task


@needs_root
def test_neargate_run_runs_what_was_pushed(server, registry, host, name):
    image = Image(directory=FIXTURES / "busybox", config=SHELL)
    registry.push(name, image, "v1")

    def run(at):
        return subprocess.run([BINARY, "run", "--quiet", "--data", str(server.data), at, "--", "sh", "-c", "exit 7"],
                              capture_output=True, text=True, timeout=60)

    assert run(f"{host}/{name}:v1").returncode == 7
    absent = run(f"{host}/{name}:absent")
    assert absent.returncode == 125 and "not found" in absent.stderr, absent


@needs_wasm
def test_neargate_push(server, registry, host, name):
    def push(*arguments):
        return subprocess.run([BINARY, "push", *arguments], capture_output=True, text=True, timeout=60,
                              env={**os.environ, **server.environment})

    done = push("probe", f"{name}:v1")
    assert done.returncode == 0, done
    at, pushed = done.stdout.split()
    assert at == f"{host}/{name}:v1"
    answer = registry.send("GET", f"/v2/{name}/manifests/v1")
    assert answer.headers["Docker-Content-Digest"] == pushed and digest(answer.content) == pushed
    layer = answer.json["layers"][0]["digest"]
    assert registry.send("GET", f"/v2/{name}/blobs/{layer}").content == MODULE.read_bytes()
    assert push("probe", f"{host}/{name}").returncode == 0
    assert registry.send("GET", f"/v2/{name}/tags/list").json["tags"] == ["latest", "v1"]
    for arguments, word in [(("absent", name), "not in the store"), (("probe", "docker.example/a"), "skopeo"),
                            (("probe", "A"), "lower-case")]:
        refused = push(*arguments)
        assert refused.returncode != 0 and word in refused.stderr, refused


@needs_wasm
def test_wasm_artifacts_run(register, run, until_stopped, registry, host, name):
    module = MODULE.read_bytes()
    config = as_json({"architecture": "wasm", "os": "wasip1", "layerDigests": [digest(module)]})
    manifest = as_json({"schemaVersion": 2, "mediaType": MANIFEST,
                        "config": descriptor(config, "application/vnd.wasm.config.v0+json"),
                        "layers": [descriptor(module, "application/wasm")]})
    for content in [config, module]:
        registry.push_blob(name, content)
    assert registry.put_manifest(name, "v1", manifest).status == 201
    register(command=["exit", "5"], image=f"{host}/{name}:v1")
    task = until_stopped(run()["tasks"][0]["taskArn"])
    assert task["containers"][0].get("exitCode") == 5, task


def test_pieces_mounts_and_ranges(registry, name):
    content = os.urandom(300_000)
    at = registry.begin(name)
    for first in range(0, len(content), 100_000):
        piece = content[first:first + 100_000]
        answer = registry.send("PATCH", at, piece, {"Content-Range": f"{first}-{first + len(piece) - 1}",
                                                    "Content-Type": "application/octet-stream"})
        assert answer.status == 202 and answer.headers["Range"] == f"0-{first + len(piece) - 1}", answer
        at = registry.path(answer.headers["Location"])
    assert registry.send("GET", at).headers["Range"] == "0-299999"
    answer = registry.send("PUT", registry.with_digest(at, digest(content)), b"")
    assert answer.status == 201 and answer.headers["Docker-Content-Digest"] == digest(content), answer
    blob = f"/v2/{name}/blobs/{digest(content)}"
    head = registry.send("HEAD", blob)
    assert (head.status, head.headers["Content-Length"], head.content) == (200, "300000", b"")
    assert registry.send("GET", blob).content == content
    for asked, expect in [("bytes=0-9", content[:10]), ("bytes=299990-", content[-10:]), ("bytes=-5", content[-5:])]:
        part = registry.send("GET", blob, headers={"Range": asked})
        assert (part.status, part.content) == (206, expect), asked
    assert registry.send("GET", blob, headers={"Range": "bytes=300000-"}).status == 416
    assert registry.send("GET", blob, headers={"If-None-Match": f'"{digest(content)}"'}).status == 304
    mounted = registry.send("POST", f"/v2/{name}-2/blobs/uploads/?mount={digest(content)}&from={name}")
    assert mounted.status == 201 and registry.send("HEAD", f"/v2/{name}-2/blobs/{digest(content)}").status == 200
    for query in [f"?mount={digest(content)}&from=absent", f"?mount={digest(b'x')}&from={name}",
                  f"?mount={digest(content)}"]:
        assert registry.send("POST", f"/v2/{name}-3/blobs/uploads/{query}").status == 202, query
    assert registry.send("HEAD", f"/v2/{name}-3/blobs/{digest(content)}").status == 404
    once = registry.send("POST", f"/v2/{name}/blobs/uploads/?digest={digest(b'once')}", b"once")
    assert once.status == 201, once


def test_tags_come_in_pages(registry, name):
    image = Image()
    tags = [f"v{n}" for n in range(7)]
    for tag in tags:
        registry.push(name, image, tag) if tag == "v0" else registry.put_manifest(name, tag, image.manifest)
    found, path = [], f"/v2/{name}/tags/list?n=3"
    while path:
        answer = registry.send("GET", path)
        assert answer.status == 200 and len(answer.json["tags"]) <= 3
        found += answer.json["tags"]
        link = answer.headers.get("Link")
        path = re.match(r'<(.*)>; rel="next"', link)[1] if link else None
    assert found == tags
    assert registry.send("GET", f"/v2/{name}/tags/list").json == {"name": name, "tags": tags}
    assert registry.send("GET", f"/v2/{name}/tags/list?n=0").json["tags"] == []
    assert registry.send("GET", f"/v2/{name}/tags/list?n=-1").status == 400
    assert registry.send("DELETE", f"/v2/{name}/manifests/v3").status == 202
    assert registry.send("HEAD", f"/v2/{name}/manifests/v3").status == 404
    assert registry.send("HEAD", f"/v2/{name}/manifests/v4").headers["Docker-Content-Digest"] == image.digest


def test_referrers(registry, name):
    image = Image()
    registry.push(name, image, "v1")
    registry.push_blob(name, EMPTY)
    config = descriptor(EMPTY, "application/vnd.oci.empty.v1+json")
    subject = descriptor(image.manifest, MANIFEST)
    made = {}
    for kind in ["application/vnd.example.sbom", "application/vnd.example.signature"]:
        manifest = as_json({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "config": config,
                            "layers": [config], "subject": subject, "annotations": {"kind": kind}})
        answer = registry.put_manifest(name, digest(manifest), manifest)
        assert answer.status == 201 and answer.headers["OCI-Subject"] == image.digest, answer
        made[kind] = descriptor(manifest, MANIFEST, artifactType=kind, annotations={"kind": kind})
    # One that says what it is by its configuration, and of a subject that is not there.
    absent = {**subject, "digest": digest(b"absent")}
    manifest = as_json({"schemaVersion": 2, "mediaType": MANIFEST, "config": {**config, "mediaType": "a/b"},
                        "layers": [], "subject": absent})
    assert registry.put_manifest(name, digest(manifest), manifest).status == 201
    of_absent = registry.send("GET", f"/v2/{name}/referrers/{digest(b'absent')}").json["manifests"]
    assert [found["artifactType"] for found in of_absent] == ["a/b"]
    answer = registry.send("GET", f"/v2/{name}/referrers/{image.digest}")
    assert answer.status == 200 and answer.headers["Content-Type"] == INDEX
    by_digest = {found["digest"]: found for found in answer.json["manifests"]}
    assert by_digest == {found["digest"]: found for found in made.values()}
    kind = "application/vnd.example.sbom"
    answer = registry.send("GET", f"/v2/{name}/referrers/{image.digest}?artifactType={kind}")
    assert answer.json["manifests"] == [made[kind]] and answer.headers["OCI-Filters-Applied"] == "artifactType"
    none = registry.send("GET", f"/v2/{name}/referrers/{digest(b'none')}")
    assert (none.status, none.json["manifests"]) == (200, [])


def test_indexes_need_their_images(registry, name):
    image = Image()
    index = as_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        descriptor(image.manifest, MANIFEST, platform={"os": "linux", "architecture": "amd64"})]})
    registry.push_blob(name, b"x")
    refused = registry.put_manifest(name, "all", index, INDEX)
    assert (refused.status, refused.codes) == (400, ["MANIFEST_BLOB_UNKNOWN"])
    registry.push(name, image, image.digest)
    assert registry.put_manifest(name, "all", index, INDEX).status == 201
    answer = registry.send("GET", f"/v2/{name}/manifests/all")
    assert answer.content == index and answer.headers["Content-Type"] == INDEX
    kept = registry.send("DELETE", f"/v2/{name}/manifests/{image.digest}")
    assert kept.status == 409, kept
    assert registry.send("DELETE", f"/v2/{name}/blobs/{digest(image.layer)}").status == 409
    for found in [index, image.manifest]:
        assert registry.send("DELETE", f"/v2/{name}/manifests/{digest(found)}").status == 202
    assert registry.send("DELETE", f"/v2/{name}/blobs/{digest(image.layer)}").status == 202
    assert registry.send("GET", f"/v2/{name}/blobs/{digest(image.layer)}").status == 404


def test_strangers_are_refused(server, registry, name, password):
    registry.push(name, Image(), "v1")
    for stranger in [Client(server.endpoint), Client(server.endpoint, "wrong"), Client(server.endpoint, ""),
                     Client(server.endpoint, password, user="root"), Client(server.endpoint, password[:-2]),
                     Client(server.endpoint, server.environment["AWS_SECRET_ACCESS_KEY"])]:
        for method, path in [("GET", "/v2/"), ("GET", f"/v2/{name}/manifests/v1"), ("POST", f"/v2/{name}/blobs/uploads/"),
                             ("DELETE", f"/v2/{name}/manifests/v1"), ("GET", "/v2/_catalog")]:
            answer = stranger.send(method, path)
            assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"]), answer
            assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
            assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"
    bearer = Client(server.endpoint)
    bearer.authorization = {"Authorization": f"Bearer {password}"}
    assert bearer.send("GET", f"/v2/{name}/manifests/v1").status == 200


def test_with_dev_everybody_may(server_directory, name):
    server = Server(server_directory(), "--dev")
    try:
        registry = Client(server.endpoint)
        assert registry.send("GET", "/v2/").status == 200
        registry.push(name, Image(), "v1")
        assert Client(server.endpoint, "whatever").send("GET", f"/v2/{name}/manifests/v1").status == 200
        page = registry.send("GET", f"/v2/{name}/manifests/v1", headers={"Sec-Fetch-Site": "cross-site"})
        assert (page.status, page.codes) == (403, ["DENIED"])
        rebound = registry.send("GET", f"/v2/{name}/manifests/v1", headers={"Host": "evil.example"})
        assert rebound.status == 403
    finally:
        server.stop()


def test_many_push_at_once(registry, name):
    shared = os.urandom(200_000)
    failures = []

    def push(n):
        try:
            image = Image({"shared": shared, "own": str(n % 4).encode()})
            registry.push(name, image, f"t{n}")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=push, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(registry.send("GET", f"/v2/{name}/tags/list").json["tags"]) == 16

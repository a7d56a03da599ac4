"""Hostile clients of the registry, rights of roles, and a server that is killed while images are pushed."""

import base64
import json
import os
import random
import signal
import socket
import threading
import time

import boto3
import pytest
from botocore.config import Config

from conftest import Server
from oci import INDEX, LAYER, MANIFEST, Client, Image, as_json, descriptor, digest
from test_registry import ecr, host, name, password, registry  # noqa: F401 (fixtures)

ROLE = "arn:aws:iam::123456789012:role/{}"


@pytest.fixture
def as_role(server, name):  # noqa: F811
    """A client of the registry and one of ECR that may do only what these statements allow."""
    iam, sts = server.client("iam"), server.client("sts")

    def as_role(role, *statements):
        trust = {"Statement": {"Effect": "Allow", "Action": "sts:AssumeRole",
                               "Principal": {"AWS": "arn:aws:iam::123456789012:root"}}}
        role = f"{role}-{name.rsplit('-', 1)[1]}"
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))
        token = {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [token, *statements]})
        iam.put_role_policy(RoleName=role, PolicyName="p", PolicyDocument=policy)
        keys = sts.assume_role(RoleArn=ROLE.format(role), RoleSessionName="session")["Credentials"]
        client = boto3.client(
            "ecr", endpoint_url=server.endpoint, region_name="us-east-1", aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"], aws_session_token=keys["SessionToken"],
            config=Config(retries={"max_attempts": 1}))
        data = client.get_authorization_token()["authorizationData"][0]
        word = base64.b64decode(data["authorizationToken"]).decode().removeprefix("AWS:")
        return Client(server.endpoint, word), client, ROLE.format(role)
    return as_role


def allow(resource, *actions):
    return {"Effect": "Allow", "Action": [f"ecr:{action}" for action in actions],
            "Resource": f"arn:aws:ecr:us-east-1:123456789012:repository/{resource}"}


PULL = ["BatchGetImage", "GetDownloadUrlForLayer", "BatchCheckLayerAvailability"]
PUSH = ["InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload", "PutImage", "BatchCheckLayerAvailability"]


def test_roles_do_what_they_may(as_role, registry, name):  # noqa: F811
    image = Image()
    registry.push(name, image, "v1")
    puller, _, _ = as_role("puller", allow(name, *PULL))
    pusher, _, _ = as_role("pusher", allow(f"{name}*", *PUSH))
    nobody, _, _ = as_role("nobody")
    manifest, blob = f"/v2/{name}/manifests/v1", f"/v2/{name}/blobs/{digest(image.layer)}"
    for client, method, path, expect in [
            (puller, "GET", manifest, 200), (puller, "GET", blob, 200), (puller, "HEAD", blob, 200),
            (puller, "POST", f"/v2/{name}/blobs/uploads/", 403), (puller, "DELETE", manifest, 403),
            (puller, "GET", f"/v2/{name}/tags/list", 403), (puller, "GET", "/v2/_catalog", 403),
            (pusher, "GET", manifest, 403), (pusher, "GET", blob, 403), (pusher, "HEAD", blob, 200),
            (pusher, "POST", f"/v2/{name}/blobs/uploads/", 202), (pusher, "DELETE", blob, 403),
            (nobody, "GET", "/v2/", 200), (nobody, "GET", manifest, 403), (nobody, "HEAD", blob, 403),
            (nobody, "GET", "/v2/absent/manifests/v1", 403)]:
        answer = client.send(method, path)
        assert answer.status == expect, f"{method} {path}: {answer}"
        if expect == 403 and method != "HEAD":
            assert answer.codes == ["DENIED"]
    # Who may push may not make repositories, unless that is allowed as well.
    refused = pusher.send("POST", f"/v2/{name}-new/blobs/uploads/")
    assert (refused.status, refused.codes) == (404, ["NAME_UNKNOWN"])
    maker, _, _ = as_role("maker", allow(f"{name}*", *PUSH, "CreateRepository"))
    maker.push(f"{name}-new", Image(), "v1")


def test_a_mount_needs_rights_at_its_source(as_role, registry, name):  # noqa: F811
    secret = os.urandom(1000)
    registry.push_blob(f"{name}-secret", secret)
    registry.push_blob(name, b"x")
    pusher, _, _ = as_role("pusher", allow(name, *PUSH, *PULL))
    query = f"?mount={digest(secret)}&from={name}-secret"
    assert pusher.send("POST", f"/v2/{name}/blobs/uploads/{query}").status == 202
    assert pusher.send("HEAD", f"/v2/{name}/blobs/{digest(secret)}").status == 404
    # Nor does a manifest that names it, or an image's own ECR call.
    manifest = as_json({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(secret, "a/b"), "layers": []})
    refused = pusher.put_manifest(name, "v1", manifest)
    assert (refused.status, refused.codes) == (400, ["MANIFEST_BLOB_UNKNOWN"])
    # By sending it, its sender has shown that it is theirs.
    pusher.push_blob(name, secret)
    assert pusher.send("GET", f"/v2/{name}/blobs/{digest(secret)}").content == secret


def test_a_repositorys_policy_counts(as_role, registry, ecr, name):  # noqa: F811
    registry.push(name, Image(), "v1")
    client, api, arn = as_role("guest")
    manifest = f"/v2/{name}/manifests/v1"
    assert client.send("GET", manifest).status == 403
    with pytest.raises(api.exceptions.ClientError, match="AccessDenied"):
        api.describe_images(repositoryName=name)

    def policy(effect, actions):
        text = {"Version": "2012-10-17", "Statement": [
            {"Sid": "s", "Effect": effect, "Principal": {"AWS": arn}, "Action": actions}]}
        ecr.set_repository_policy(repositoryName=name, policyText=json.dumps(text))

    policy("Allow", ["ecr:BatchGetImage", "ecr:DescribeImages"])
    assert client.send("GET", manifest).status == 200
    assert client.send("GET", f"/v2/{name}/tags/list").status == 403
    assert len(api.describe_images(repositoryName=name)["imageDetails"]) == 1
    other, _, _ = as_role("all", allow("*", "*"))
    assert other.send("GET", manifest).status == 200
    policy("Deny", "ecr:*")
    assert client.send("GET", manifest).status == 403


def test_uploads_are_their_repositorys(registry, name):  # noqa: F811
    at = registry.begin(name)
    upload = at.rsplit("/", 1)[1]
    registry.push_blob(f"{name}-2", b"x")
    for method in ["GET", "PATCH", "DELETE"]:
        answer = registry.send(method, f"/v2/{name}-2/blobs/uploads/{upload}", b"" if method == "PATCH" else None)
        assert answer.status == 404, answer
    for hostile in ["..", "%2e%2e%2f%2e%2e", "x" * 36, upload[:-1], upload.upper() + "/x", "a" * 5000]:
        answer = registry.send("PATCH", f"/v2/{name}/blobs/uploads/{hostile}", b"x")
        assert answer.status in (400, 404), f"{hostile[:50]}: {answer}"
    assert registry.send("GET", at).status == 204


@pytest.mark.parametrize("path", [
    "/v2/../../etc/passwd/manifests/v1", "/v2/a/..%2f..%2fb/manifests/v1", "/v2/%2e%2e/tags/list", "/v2/A/tags/list",
    "/v2/a%00/tags/list", "/v2/a/manifests/%2e%2e", "/v2/a/blobs/sha256:..%2f..%2fx", f"/v2/{'a' * 256}/tags/list",
    "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", "/v2//tags/list", "/v2/a b/tags/list".replace(" ", "%20")])
def test_names_are_no_paths(registry, path):  # noqa: F811
    answer = registry.send("GET", path)
    assert answer.status in (400, 404) and answer.codes[0] in (
        "NAME_INVALID", "DIGEST_INVALID", "MANIFEST_INVALID", "UNSUPPORTED"), answer


def test_bad_digests_and_ranges(registry, name):  # noqa: F811
    at = registry.begin(name)
    for query, status in [("digest=sha256:abc", 400), ("digest=", 400), ("", 400), (f"digest=sha512:{'0' * 128}", 400)]:
        assert registry.send("PUT", f"{at}?{query}", b"x").status == status, query
    for value, status in [("5-9", 416), ("9-5", 400), ("-1-5", 400), ("0-18446744073709551615", 400), ("x", 400),
                          ("0-99", 400)]:
        answer = registry.send("PATCH", at, b"12345", {"Content-Range": value})
        assert answer.status == status, f"{value}: {answer}"
    state = registry.send("GET", at)
    assert (state.status, state.headers["Range"]) == (204, "0-0")
    assert registry.send("PATCH", at, b"12345", {"Content-Range": "0-4"}).status == 202
    wrong = registry.send("PATCH", at, b"12345", {"Content-Range": "0-4"})
    assert (wrong.status, wrong.headers["Range"]) == (416, "0-4")
    mismatch = registry.send("PUT", registry.with_digest(at, digest(b"other")), b"")
    assert (mismatch.status, mismatch.codes) == (400, ["DIGEST_INVALID"])
    assert registry.send("GET", at).status == 404, "nothing is left of what was something else"
    assert registry.send("HEAD", f"/v2/{name}/blobs/{digest(b'12345')}").status == 404


def test_manifests_that_are_none(registry, name):  # noqa: F811
    image = Image()
    registry.push(name, image, "v1")
    both = as_json({**json.loads(image.manifest), "manifests": []})
    twice = image.manifest.replace(b'"layers"', b'"layers":[],"layers"')
    for content, media_type, code in [
            (b"", MANIFEST, "MANIFEST_INVALID"), (b"[]", MANIFEST, "MANIFEST_INVALID"),
            (b"\xff\xfe", MANIFEST, "MANIFEST_INVALID"), (b"{" * 10_000, MANIFEST, "MANIFEST_INVALID"),
            (both, MANIFEST, "MANIFEST_INVALID"), (twice, MANIFEST, "MANIFEST_INVALID"),
            (image.manifest, INDEX, "MANIFEST_INVALID"),
            (as_json({"schemaVersion": 1, "fsLayers": []}), "application/vnd.docker.distribution.manifest.v1+json",
             "MANIFEST_INVALID"),
            (image.manifest.replace(b"sha256:", b"sha256:../", 1), MANIFEST, "MANIFEST_INVALID")]:
        answer = registry.put_manifest(name, "v2", content, media_type)
        assert (answer.status, answer.codes) == (400, [code]), f"{content[:80]}: {answer}"
    wrong = registry.put_manifest(name, digest(b"other"), image.manifest)
    assert (wrong.status, wrong.codes) == (400, ["DIGEST_INVALID"])
    assert registry.send("HEAD", f"/v2/{name}/manifests/v2").status == 404


def test_oversize_manifests(registry, name):  # noqa: F811
    registry.push_blob(name, b"x")
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(b"x", "a/b"), "layers": [],
                "annotations": {"a": ""}}
    document["annotations"]["a"] = "x" * ((4 << 20) - len(as_json(document)))
    assert registry.put_manifest(name, "large", as_json(document)).status == 201
    document["annotations"]["a"] += "x"
    refused = registry.put_manifest(name, "larger", as_json(document))
    assert refused.status == 413, refused


def test_slow_and_broken_senders(registry, name):  # noqa: F811
    at = registry.begin(name)
    address = (registry.netloc.rsplit(":", 1)[0], int(registry.netloc.rsplit(":", 1)[1]))
    head = f"PATCH {at} HTTP/1.1\r\nHost: x\r\nAuthorization: {registry.authorization['Authorization']}\r\n"
    sockets = []
    for _ in range(200):
        sender = socket.create_connection(address)
        sender.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode())
        sockets.append(sender)
    sockets[0].sendall(b"x" * 10_000)
    # One of them has the upload; others are told so, and nobody else waits.
    registry.push(f"{name}-2", Image(), "v1")
    for sender in sockets:
        sender.close()
    deadline = time.monotonic() + 20
    while (answer := registry.send("PATCH", at, b"")).status != 202:
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
    # What came of the first piece, if it was its turn, has stayed and can be gone on with.
    size = int(answer.headers["Range"].split("-")[1])
    assert size in (0, 9_999), answer
    assert registry.send("DELETE", at).status == 204


def test_passwords_end_with_their_role(server, as_role, registry, name):  # noqa: F811
    registry.push(name, Image(), "v1")
    client, _, arn = as_role("leaver", allow(name, *PULL))
    path = f"/v2/{name}/manifests/v1"
    assert client.send("GET", path).status == 200
    iam, role = server.client("iam"), arn.rsplit("/", 1)[1]
    iam.delete_role_policy(RoleName=role, PolicyName="p")
    assert client.send("GET", path).status == 403
    iam.delete_role(RoleName=role)
    assert client.send("GET", path).status == 401


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_server_has_what_it_acknowledged(server_directory, seed):
    """Killed with -9 at any moment of a push: what was acknowledged is there whole, the rest goes on or is gone."""
    chance, directory = random.Random(seed), server_directory()
    acknowledged, failures = {}, []
    server = Server(directory, "--dev")
    registry = Client(server.endpoint, timeout=10)  # noqa: F811
    at = registry.begin("resumed")
    half = os.urandom(400_000)
    assert registry.send("PATCH", at, half[:150_000]).status == 202

    def push(n):
        for k in range(1000):
            image = Image({"f": os.urandom(50_000)})
            try:
                answer = registry.push(f"app-{n}", image, f"t{k}")
            except (OSError, AssertionError, ValueError):
                return
            except Exception as error:
                # http.client has several for a connection that ends half-way.
                if "http.client" not in repr(type(error)):
                    failures.append(error)
                return
            acknowledged[f"app-{n}", f"t{k}"] = image
    threads = [threading.Thread(target=push, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.3 + chance.random())
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    for thread in threads:
        thread.join()
    assert not failures
    assert acknowledged, "nothing was pushed before the end"
    server = Server(directory, "--dev")
    try:
        registry = Client(server.endpoint)
        for (repository, tag), image in acknowledged.items():
            found = registry.send("GET", f"/v2/{repository}/manifests/{tag}")
            assert found.content == image.manifest, (repository, tag, found)
        for n in range(4):
            tags = registry.send("GET", f"/v2/app-{n}/tags/list")
            for tag in tags.json.get("tags", []) if tags.status == 200 else []:
                manifest = registry.send("GET", f"/v2/app-{n}/manifests/{tag}").json
                for part in [manifest["config"], *manifest["layers"]]:
                    blob = registry.send("GET", f"/v2/app-{n}/blobs/{part['digest']}")
                    assert digest(blob.content) == part["digest"], (n, tag, part)
        state = registry.send("GET", at)
        assert (state.status, state.headers["Range"]) == (204, "0-149999"), state
        last = registry.send("PATCH", at, half[150_000:], {"Content-Range": "150000-399999"})
        assert last.status == 202, last
        assert registry.send("PUT", registry.with_digest(at, digest(half)), b"").status == 201
        assert registry.send("GET", f"/v2/resumed/blobs/{digest(half)}").content == half
    finally:
        server.stop()

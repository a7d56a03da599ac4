"""Answers of the registry beside those of Debian's docker-registry to the same requests."""

import shutil
import socket
import subprocess
import time

import pytest

from conftest import Server
from oci import INDEX, MANIFEST, Client, Image, as_json, descriptor, digest

pytestmark = pytest.mark.skipif(shutil.which("docker-registry") is None, reason="no docker-registry")

CONFIGURATION = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: "{root}"}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}", relativeurls: true}}
"""
# Headers that say something of what is answered, and not of who answers.
HEADERS = ["Docker-Distribution-API-Version", "Docker-Content-Digest", "Content-Length", "Range", "Content-Range",
           "Etag", "Accept-Ranges"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    directory = tmp_path_factory.mktemp("reference")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (directory / "config.yml").write_text(CONFIGURATION.format(root=directory / "data", port=port))
    process = subprocess.Popen(["docker-registry", "serve", str(directory / "config.yml")],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = Client(f"http://127.0.0.1:{port}")
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                assert client.send("GET", "/v2/").status == 200
                break
            except OSError:
                assert time.monotonic() < deadline, "docker-registry does not answer"
                time.sleep(0.05)
        yield client
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def ours(server_directory):
    server = Server(server_directory(), "--dev")
    try:
        yield Client(server.endpoint)
    finally:
        server.stop()


def seen(answer, method="GET"):
    """What two registries should agree about."""
    shown = {"status": answer.status}
    if answer.status >= 400:
        if answer.content and method != "HEAD":
            shown["codes"] = answer.codes
        return shown
    return shown | {header: answer.headers.get(header) for header in HEADERS if header in answer.headers}


IMAGE = Image()
INDEX_OF_IT = as_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
    descriptor(IMAGE.manifest, MANIFEST, platform={"os": "linux", "architecture": "amd64"})]})
LAYER_OF_IT = f"/v2/a/b/blobs/{digest(IMAGE.layer)}"
ABSENT = digest(b"absent")

# Not pages of tags, which version 2.8 does not make, nor ranges beyond the end, to which it sends an answer that breaks off.
READS = [
    ("GET", "/v2/", {}), ("GET", "/v2/a/b/tags/list", {}), ("GET", "/v2/absent/tags/list", {}),
    ("GET", "/v2/a/b/manifests/v1", {"Accept": MANIFEST}), ("HEAD", "/v2/a/b/manifests/v1", {"Accept": MANIFEST}),
    ("GET", f"/v2/a/b/manifests/{IMAGE.digest}", {"Accept": MANIFEST}), ("GET", "/v2/a/b/manifests/absent", {}),
    ("GET", f"/v2/a/b/manifests/{ABSENT}", {}), ("HEAD", "/v2/a/b/manifests/absent", {}),
    ("GET", "/v2/a/b/manifests/all", {"Accept": INDEX}), ("GET", "/v2/absent/manifests/v1", {}),
    ("GET", LAYER_OF_IT, {}), ("HEAD", LAYER_OF_IT, {}), ("GET", LAYER_OF_IT, {"Range": "bytes=1-5"}),
    ("GET", LAYER_OF_IT, {"Range": "bytes=5-"}), ("GET", LAYER_OF_IT, {"Range": "bytes=-5"}),
    ("GET", f"/v2/a/b/blobs/{ABSENT}", {}),
    ("HEAD", f"/v2/a/b/blobs/{ABSENT}", {}), ("GET", LAYER_OF_IT.replace("/a/b/", "/absent/"), {}),
]


@pytest.fixture(scope="module")
def both(ours, reference):
    for client in (ours, reference):
        client.push("a/b", IMAGE, "v1")
        assert client.put_manifest("a/b", "v2", IMAGE.manifest).status == 201
        assert client.put_manifest("a/b", "all", INDEX_OF_IT, INDEX).status == 201
    return ours, reference


@pytest.mark.parametrize("method,path,headers", READS, ids=lambda value: str(value)[:60])
def test_reads(both, method, path, headers):
    ours, theirs = (client.send(method, path, headers=headers) for client in both)
    shown, expect = seen(ours, method), seen(theirs, method)
    if path.endswith("/list"):
        if ours.status == 200:
            # The order of its tags is that of its disk.
            assert ours.json == {**theirs.json, "tags": sorted(theirs.json["tags"])}
        expect.pop("Content-Length", None)  # it ends with a line break
    assert {header: shown.get(header) for header in expect if header != "codes"} == {
        header: value for header, value in expect.items() if header != "codes"}, f"{ours}\n{theirs}"
    # A repository that is not there has two names: of an image in it, docker-registry says the image's.
    known = [["NAME_UNKNOWN"], ["MANIFEST_UNKNOWN"], ["BLOB_UNKNOWN"]]
    if "/absent/" in path:
        assert shown["codes"] in known and expect["codes"] in known
    else:
        assert shown.get("codes") == expect.get("codes"), f"{ours}\n{theirs}"
        if ours.status == 200 and method == "GET" and "tags" not in path and path != "/v2/":
            assert ours.content == theirs.content


def writes(client):
    """The same story told to a registry; what it answers."""
    told = []

    def tell(method, path, body=None, headers=None):
        answer = client.send(method, path, body, headers)
        told.append((f"{method} {path.split('/uploads/')[0][:60]}", seen(answer, method)))
        return answer

    content = bytes(range(256)) * 40
    at = client.path(tell("POST", "/v2/w/blobs/uploads/", b"").headers["Location"])
    answer = tell("PATCH", at, content[:5000], {"Content-Range": "0-4999", "Content-Type": "application/octet-stream"})
    at = client.path(answer.headers["Location"])
    tell("GET", at)
    answer = tell("PATCH", at, content[5000:], {"Content-Range": f"5000-{len(content) - 1}",
                                               "Content-Type": "application/octet-stream"})
    at = client.path(answer.headers["Location"])
    tell("PUT", client.with_digest(at, digest(content)), b"")
    tell("HEAD", f"/v2/w/blobs/{digest(content)}")
    tell("POST", f"/v2/w2/blobs/uploads/?mount={digest(content)}&from=w", b"")
    tell("POST", f"/v2/w2/blobs/uploads/?mount={ABSENT}&from=w", b"")
    at = client.path(tell("POST", "/v2/w/blobs/uploads/", b"").headers["Location"])
    tell("PUT", client.with_digest(at, ABSENT), b"something else")
    at = client.path(tell("POST", "/v2/w/blobs/uploads/", b"").headers["Location"])
    tell("DELETE", at)
    tell("GET", at)
    tell("PUT", "/v2/w/manifests/v1", b"no JSON", {"Content-Type": MANIFEST})
    for blob in IMAGE.blobs:
        client.push_blob("w", blob)
    tell("PUT", f"/v2/w/manifests/{ABSENT}", IMAGE.manifest, {"Content-Type": MANIFEST})
    tell("PUT", "/v2/w/manifests/v1", IMAGE.manifest, {"Content-Type": MANIFEST})
    tell("DELETE", f"/v2/w/manifests/{ABSENT}")
    tell("DELETE", f"/v2/w/manifests/{IMAGE.digest}")
    tell("GET", "/v2/w/manifests/v1")
    tell("DELETE", f"/v2/w/blobs/{digest(content)}")
    tell("GET", f"/v2/w/blobs/{digest(content)}")
    tell("DELETE", f"/v2/w/blobs/{ABSENT}")
    return told


def test_writes(ours, reference):
    told, expect = writes(ours), writes(reference)
    for (what, shown), (_, theirs) in zip(told, expect, strict=True):
        for header in ("Content-Length", "Etag"):
            # docker-registry says 0 where we say nothing, which is the same for an answer without a body.
            shown.pop(header, None), theirs.pop(header, None)
        missing = {header: value for header, value in theirs.items() if shown.get(header) != value}
        assert not missing, f"{what}: {shown} beside {theirs}"

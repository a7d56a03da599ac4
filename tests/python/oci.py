"""Images made by hand, and a client of registries that sends whatever it is told to."""

import base64
import gzip
import hashlib
import http.client
import io
import json
import pathlib
import tarfile
import urllib.parse

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
EMPTY = b"{}"


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def descriptor(content, media_type, **more):
    return {"mediaType": media_type, "digest": digest(content), "size": len(content), **more}


def as_json(document):
    return json.dumps(document, separators=(",", ":")).encode()


def layer(files, directory=None):
    """A gzipped tar archive with these files, and below a directory of the host."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            archive.addfile(member, io.BytesIO(content))
        if directory:
            for path in sorted(pathlib.Path(directory).rglob("*")):
                archive.add(path, arcname=str(path.relative_to(directory)), recursive=False)
    return gzip.compress(plain.getvalue(), mtime=0), digest(plain.getvalue())


class Image:
    """A manifest and the blobs that it needs."""

    def __init__(self, files=None, directory=None, config=None, **manifest):
        self.layer, diff_id = layer(files or {"hello": b"hello\n"}, directory)
        self.config = as_json({"architecture": "amd64", "os": "linux", "config": config or {},
                               "rootfs": {"type": "layers", "diff_ids": [diff_id]}})
        self.manifest = as_json({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(self.config, CONFIG),
            "layers": [descriptor(self.layer, LAYER)], **manifest})
        self.blobs = [self.config, self.layer]
        self.digest = digest(self.manifest)


def write_layout(directory, image, name="v1"):
    """An OCI image layout of one image."""
    directory = pathlib.Path(directory)
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    for content in [*image.blobs, image.manifest]:
        (blobs / digest(content).split(":")[1]).write_bytes(content)
    entry = descriptor(image.manifest, MANIFEST, annotations={"org.opencontainers.image.ref.name": name})
    (directory / "index.json").write_bytes(as_json({"schemaVersion": 2, "manifests": [entry]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


class Answer:
    def __init__(self, response, content):
        self.status, self.headers, self.content = response.status, response.headers, content

    @property
    def codes(self):
        return [error["code"] for error in json.loads(self.content)["errors"]]

    @property
    def json(self):
        return json.loads(self.content)

    def __repr__(self):
        return f"{self.status} {dict(self.headers)} {self.content[:500]}"


class Client:
    """A client of a registry; without a password it says nothing of who it is."""

    def __init__(self, endpoint, password=None, user="AWS", timeout=60):
        self.netloc = urllib.parse.urlsplit(endpoint).netloc
        self.timeout = timeout
        self.authorization = {}
        if password is not None:
            encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
            self.authorization = {"Authorization": f"Basic {encoded}"}

    def connect(self):
        return http.client.HTTPConnection(self.netloc, timeout=self.timeout)

    def send(self, method, path, body=None, headers=None):
        connection = self.connect()
        try:
            connection.request(method, path, body=body, headers={**self.authorization, **(headers or {})})
            response = connection.getresponse()
            return Answer(response, response.read())
        finally:
            connection.close()

    def path(self, location):
        parts = urllib.parse.urlsplit(location)
        return parts.path + (f"?{parts.query}" if parts.query else "")

    def begin(self, name):
        answer = self.send("POST", f"/v2/{name}/blobs/uploads/", headers={"Content-Length": "0"})
        assert answer.status == 202, answer
        return self.path(answer.headers["Location"])

    def with_digest(self, location, content_digest):
        return f"{location}{'&' if '?' in location else '?'}digest={content_digest}"

    def push_blob(self, name, content):
        at = self.with_digest(self.begin(name), digest(content))
        answer = self.send("PUT", at, content, {"Content-Type": "application/octet-stream"})
        assert answer.status == 201, answer
        return answer

    def put_manifest(self, name, reference, content, media_type=MANIFEST):
        return self.send("PUT", f"/v2/{name}/manifests/{reference}", content, {"Content-Type": media_type})

    def push(self, name, image, reference="latest"):
        for content in image.blobs:
            self.push_blob(name, content)
        answer = self.put_manifest(name, reference, image.manifest)
        assert answer.status == 201, answer
        return answer

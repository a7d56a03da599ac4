"""A registry of somebody else's: Debian's docker-registry, and images that skopeo pushes to it."""

import base64
import hashlib
import http.server
import io
import json
import pathlib
import platform
import socket
import subprocess
import tarfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
OTHER = "s390x"
USER, PASSWORD = "puller", "pass word:1"
OCI = "application/vnd.oci.image."


def archive(files):
    """A layer with these files; what is executable begins with #! or \\x7fELF."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755 if content[:2] in (b"#!", b"\x7fE") else 0o644
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class Layout:
    """An OCI image layout in a directory."""

    def __init__(self, directory):
        self.directory = directory
        (directory / "blobs/sha256").mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, data, media_type):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        name = hashlib.sha256(data).hexdigest()
        (self.directory / "blobs/sha256" / name).write_bytes(data)
        return {"mediaType": OCI + media_type, "digest": f"sha256:{name}", "size": len(data)}

    def manifest(self, layers, config, architecture=ARCHITECTURE):
        layers = [self.blob(layer, "layer.v1.tar") for layer in layers]
        config = {"os": "linux", "architecture": architecture, "config": config,
                  "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
                  "history": [{"created_by": f"COPY layer {n}"} for n in range(len(layers))]}
        config = self.blob(config, "config.v1+json")
        manifest = {"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "config": config, "layers": layers}
        return self.blob(manifest, "manifest.v1+json") | {"platform": {"os": "linux", "architecture": architecture}}

    def index(self, manifests):
        return self.blob({"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": manifests}, "index.v1+json")

    def finish(self, descriptor):
        (self.directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
        return self


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Tokens:
    """A token server: signs what docker-registry believes."""

    def __init__(self, directory):
        self.key, self.certificate = directory / "key.pem", directory / "certificate.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens",
                        "-keyout", self.key, "-out", self.certificate], check=True, capture_output=True)
        self.asked = []
        tokens = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
                tokens.asked.append((self.headers.get("Authorization"), query))
                expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                actions = ["pull", "push"] if self.headers.get("Authorization") == f"Basic {expected}" else []
                body = json.dumps({"token": tokens.sign(query, actions), "expires_in": 300}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.realm = f"http://127.0.0.1:{self.server.server_port}/token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def sign(self, query, actions):
        def encode(data):
            return base64.urlsafe_b64encode(data).rstrip(b"=")

        der = subprocess.run(["openssl", "x509", "-in", self.certificate, "-outform", "DER"], check=True,
                             capture_output=True).stdout
        scope = query.get("scope", "").split(":")
        access = [{"type": scope[0], "name": ":".join(scope[1:-1]), "actions": actions}] if len(scope) > 2 else []
        now = int(time.time())
        claims = {"iss": "tokens", "sub": USER, "aud": query.get("service"), "exp": now + 300, "nbf": now - 10, "iat": now,
                  "jti": str(now), "access": access}
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        signed = encode(json.dumps(header).encode()) + b"." + encode(json.dumps(claims).encode())
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.key], input=signed, check=True,
                                   capture_output=True).stdout
        return (signed + b"." + encode(signature)).decode()


class Foreign:
    """A running docker-registry: open, with a password, or with tokens."""

    def __init__(self, directory, kind="open"):
        self.address, self.directory = f"127.0.0.1:{free_port()}", directory
        self.tokens = Tokens(directory) if kind == "tokens" else None
        auth = ""
        if kind == "password":
            line = subprocess.run(["htpasswd", "-Bbn", USER, PASSWORD], check=True, capture_output=True, text=True).stdout
            (directory / "htpasswd").write_text(line)
            auth = f"auth: {{htpasswd: {{realm: tests, path: {directory}/htpasswd}}}}\n"
        if self.tokens:
            auth = (f"auth: {{token: {{realm: {self.tokens.realm}, service: tests, issuer: tokens, "
                    f"rootcertbundle: {self.tokens.certificate}}}}}\n")
        configuration = directory / "config.yml"
        configuration.write_text(
            f"version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}, "
            f"delete: {{enabled: true}}}}\nhttp: {{addr: {self.address}}}\n{auth}")
        with open(directory / "registry.log", "wb") as log:
            self.process = subprocess.Popen(["docker-registry", "serve", str(configuration)], stdout=log, stderr=log)
        self._wait()

    def _wait(self):
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://{self.address}/v2/", timeout=5)
                return
            except urllib.error.HTTPError:
                return  # it asks who is there
            except OSError:
                assert time.monotonic() < deadline, (self.directory / "registry.log").read_text()
                time.sleep(0.05)

    def log(self):
        return (self.directory / "registry.log").read_text()

    def push(self, layout, name, *options):
        """Pushes as skopeo does; answers the reference."""
        subprocess.run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", "--dest-creds", f"{USER}:{PASSWORD}",
                        *options, f"oci:{layout.directory}", f"docker://{self.address}/{name}"], check=True, timeout=120)
        return f"{self.address}/{name}"

    def auth(self):
        """What `docker login` writes."""
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return json.dumps({"auths": {self.address: {"auth": auth}}})

    def stop(self):
        self.process.kill()
        self.process.wait()
        if self.tokens:
            self.tokens.server.shutdown()


def busybox(fixtures):
    """The program of a task, from the fixtures."""
    return (pathlib.Path(fixtures) / "busybox/bin/busybox").read_bytes()

"""A model hub on localhost: metadata, files with ranges, gated and missing repositories."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    def __init__(self, folders: dict[str, Path], gated: dict[str, str], datasets: dict[str, Path]):
        self.folders = folders
        self.datasets = datasets
        self.gated = gated
        self.requests: list[str] = []
        self.tokens: set[str] = set()
        self.fail_with = 0
        self.sent_bytes = 0
        self.url = ""

    def served(self, suffix: str) -> bool:
        return any(r.startswith("GET") and r.endswith(suffix) for r in self.requests)


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.path.split("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if token:
            self.hub.tokens.add(token)
        if self.hub.fail_with:
            return self.send(self.hub.fail_with, b"{}", {})
        if path.startswith("/api/models/"):
            return self.metadata(path.removeprefix("/api/models/"))
        if path.startswith("/api/datasets/"):
            return self.dataset(path.removeprefix("/api/datasets/"), token)
        repo, _, rest = path[1:].partition("/resolve/")
        if repo.removeprefix("datasets/") in self.hub.datasets:
            return self.file(self.hub.datasets[repo.removeprefix("datasets/")] / rest.partition("/")[2], body)
        if repo not in self.hub.folders:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if repo in self.hub.gated and token != self.hub.gated[repo]:
            return self.send(403 if token else 401, b"", {"X-Error-Code": "GatedRepo"})
        return self.file(self.hub.folders[repo] / rest.partition("/")[2], body)

    def metadata(self, repo):
        repo = repo.partition("/revision/")[0]
        if repo not in self.hub.folders:
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        root = self.hub.folders[repo]
        files = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
        reply = {"id": repo, "sha": COMMIT, "private": False, "gated": "manual" if repo in self.hub.gated else False}
        reply["siblings"] = [{"rfilename": f} for f in files]
        return self.send(200, json.dumps(reply).encode(), {"Content-Type": "application/json"})

    def dataset(self, path, token):
        repo, _, rest = path.replace("/revision/", "/tree/").replace("/auth-check", "/tree/").partition("/tree/")
        if repo not in self.hub.datasets:
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if path.endswith("/auth-check"):
            allowed = token == self.hub.gated.get(repo, token)
            return self.send(200 if allowed else 403, b"{}", {} if allowed else {"X-Error-Code": "GatedRepo"})
        root = self.hub.datasets[repo]
        files = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"} for f in sorted(root.iterdir())]
        gated = "manual" if repo in self.hub.gated else False
        reply = {"id": repo, "sha": COMMIT, "private": False, "gated": gated, "tags": [], "downloads": 0}
        reply["siblings"] = [{"rfilename": f["path"]} for f in files]
        body = ([] if "/" in rest else files) if "/tree/" in path else reply
        return self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def file(self, path, body):
        if not path.is_file():
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = path.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        span = self.headers.get("range")
        if span and body:
            first, last = span.removeprefix("bytes=").split("-")
            part = data[int(first) : int(last or len(data)) + 1]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
            return self.send(206, part, headers)
        return self.send(200, data, headers)

    def send(self, status, data, headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.hub.sent_bytes += len(data)
            self.wfile.write(data)


@contextmanager
def serve(folders, gated=None, datasets=None):
    hub = FakeHub(folders, gated or {}, datasets or {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

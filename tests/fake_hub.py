"""A real HTTP server that serves folders as the dataset repositories of the Hugging Face hub, read only.

    with FakeHub({"owner/name": folder}) as hub: ... HF_ENDPOINT=hub.url ...

It speaks what `datasets` and `huggingface_hub` ask for: a repository's description, its tree, and its files.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    def __init__(self, repositories: Mapping[str, Path]):
        self._repositories = repositories
        self.served: list[str] = []  # paths of the files that were sent

    def __enter__(self) -> FakeHub:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                owner._answer(self, b"")

            do_HEAD = do_GET

            def do_POST(self):
                owner._answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        path = unquote(urlsplit(request.path).path)
        for name, folder in self._repositories.items():
            if path.startswith(f"/api/datasets/{name}"):
                return self._describe(request, folder, path.removeprefix(f"/api/datasets/{name}"), name, body)
            start = f"/datasets/{name}/resolve/"
            if path.startswith(start):
                return self._send_file(request, folder / path.removeprefix(start).partition("/")[2])
        return _send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _describe(self, request: BaseHTTPRequestHandler, folder: Path, rest: str, name: str, body: bytes) -> None:
        entries = [_entry(file, folder) for file in sorted(folder.rglob("*"))]
        what = rest.strip("/").partition("/")[0]
        if what == "tree":  # of a folder below the revision
            under = rest.strip("/").split("/", 2)[2:]
            found = [entry for entry in entries if not under or entry["path"].startswith(under[0] + "/")]
            return _send(request, 200, json.dumps(found).encode())
        if what == "paths-info":
            wanted = json.loads(body)["paths"]
            return _send(request, 200, json.dumps([e for e in entries if e["path"] in wanted]).encode())
        files = [{"rfilename": entry["path"]} for entry in entries if entry["type"] == "file"]
        about = {"id": name, "sha": REVISION, "siblings": files, "private": False, "tags": [], "downloads": 0}
        return _send(request, 200, json.dumps(about).encode())

    def _send_file(self, request: BaseHTTPRequestHandler, file: Path) -> None:
        if not file.is_file():
            return _send(request, 404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": REVISION})
        data = file.read_bytes()
        if request.command == "GET":
            self.served.append(file.name)
        headers = {"X-Repo-Commit": REVISION, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        return _send(request, 200, data, headers)


def _entry(file: Path, folder: Path) -> dict:
    path = file.relative_to(folder).as_posix()
    oid = hashlib.sha1(path.encode()).hexdigest()
    if file.is_dir():
        return {"type": "directory", "path": path, "oid": oid, "size": 0}
    return {"type": "file", "path": path, "oid": oid, "size": file.stat().st_size}


def _send(request: BaseHTTPRequestHandler, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(data)))
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(data)

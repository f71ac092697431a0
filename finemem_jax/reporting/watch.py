"""The report of a run while it goes on: a page that this machine alone can open, made from the run's folder.

It listens on 127.0.0.1, answers GET to a request whose Host is this address (another name that was made to point here
is refused), and only reads. The page asks again every few seconds and is sent what there is when the records have
grown.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from finemem_jax.config import UserError
from finemem_jax.console import tell
from finemem_jax.evaluation.records import HELDOUT
from finemem_jax.reporting.report import MAX_BYTES, check_run, dumped, fitting_page, report_data

ADDRESS = "127.0.0.1"
SECONDS = 3.0  # between two questions of the page
_PATTERNS = ("config.json", "results.json", "evaluation.json", "*.jsonl", f"{HELDOUT}/*.jsonl")  # what the page is of


def watch(workdir: Path, port: int) -> None:
    """Serves the page until Ctrl-C. Raises UserError where there is no run, or the port is taken."""
    check_run(workdir)
    try:
        server = server_of(workdir, port)
    except OSError as error:
        raise UserError(f"--port={port}: {error.strerror}; choose another, or 0 for any that is free") from None
    tell(f"following {workdir} at http://{ADDRESS}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        tell("", flush=True)
    finally:
        server.server_close()


def server_of(workdir: Path, port: int, seconds: float = SECONDS) -> ThreadingHTTPServer:
    """Listening, not yet answering. port: 0 = any that is free."""
    server = ThreadingHTTPServer((ADDRESS, port), _handler(Followed(workdir, seconds)))
    server.daemon_threads = True
    return server


class Followed:
    """The page of a growing run, made again when its files have changed."""

    def __init__(self, workdir: Path, seconds: float):
        self._workdir, self._seconds = workdir, seconds
        self._lock = threading.Lock()  # several pages may ask at once, and are told the same
        self._made: dict[str, tuple[str, bytes]] = {}  # what was made last, by its kind, and of which version

    def version(self) -> str:
        """Another one when a file of the run is another."""
        digest = hashlib.sha256()
        for path in sorted(path for pattern in _PATTERNS for path in self._workdir.glob(pattern)):
            try:
                state = path.stat()
            except OSError:  # replaced at this moment
                continue
            digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]

    def page(self) -> bytes:
        return self._of_now("page", self._page)

    def data(self) -> bytes:
        return self._of_now("data", self._data)

    def _of_now(self, kind: str, make: Callable[[str], bytes]) -> bytes:
        with self._lock:
            version = self.version()
            if self._made.get(kind, ("",))[0] != version:
                self._made[kind] = version, make(version)
            return self._made[kind][1]

    def _page(self, version: str) -> bytes:
        page = fitting_page(lambda budget: report_data(self._workdir, budget), follow=self._follow(version))
        return page.encode("utf-8", "backslashreplace")

    def _data(self, version: str) -> bytes:
        data = {**report_data(self._workdir, MAX_BYTES), "follow": self._follow(version)}
        return dumped(data).encode("utf-8", "backslashreplace")

    def _follow(self, version: str) -> dict:
        return {"version": version, "seconds": self._seconds}


def _handler(followed: Followed) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server: ThreadingHTTPServer
        server_version, sys_version = "finemem", ""

        def do_GET(self) -> None:
            port = self.server.server_port
            if self.headers.get("Host") not in (f"{ADDRESS}:{port}", f"localhost:{port}"):
                return self._say(403, "text/plain", b"finemem watch answers to this machine alone")
            asked = urlsplit(self.path)
            if asked.path == "/":
                return self._say(200, "text/html; charset=utf-8", followed.page())
            if asked.path != "/data":
                return self._say(404, "text/plain", b"nothing is here")
            if parse_qs(asked.query).get("after") == [followed.version()]:
                return self._say(304, "application/json", b"")
            return self._say(200, "application/json", followed.data())

        def _say(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            for name, value in (
                ("Content-Type", kind),
                ("Content-Length", str(len(body))),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
                ("X-Frame-Options", "DENY"),
                ("Cross-Origin-Resource-Policy", "same-origin"),
            ):
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the page was closed meanwhile
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a page that asks every few seconds would fill the terminal."""

    return Handler

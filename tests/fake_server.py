"""A real HTTP server on a free port that answers chat completions, or misbehaves as told.

    with FakeServer(behave) as server: ... server.url ...

`behave(question, attempt)` names what happens to the `attempt`-th request (from 0) whose last message ends with
`question`: "ok", "reset", "drip", "not json", "short", "no choices", "two choices", "null", or a status code, with a
Retry-After in seconds after a slash: "429/1".
"""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Server(ThreadingHTTPServer):
    request_queue_size = 256  # connections that wait to be accepted; a refused one comes back a second later


class FakeServer:
    def __init__(self, behave: Callable[[str, int], str] = lambda question, attempt: "ok", port: int = 0):
        """port: a reserved one (`ports.py`), for a server that is looked for while it is away."""
        self.behave = behave
        self.reply: Callable[[str], str | None] = lambda question: f"<think>hm</think>re: {question}"
        self.finish = "stop"
        # Tokens that it reads of a request; None where it does not take it
        self.count: Callable[[dict], int | None] = lambda body: 10 if "messages" in body else None
        self.error = "told to fail"
        self.seen: list[str] = []  # questions, in the order of arrival
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.times: list[float] = []
        self.most_at_once = 0
        self.port = port
        self._now = 0
        self._attempts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __enter__(self) -> FakeServer:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                owner._answer(self)

            def log_message(self, *_):
                pass

        self._server = self._bind(Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _bind(self, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
        """On the port that was given, or a free one below those that clients get: there a client that tries a closed
        port may connect to itself and keep the port taken."""
        rng = random.Random()
        while True:
            try:
                return _Server(("127.0.0.1", self.port or rng.randrange(10000, 16000)), handler)
            except OSError:
                if self.port:
                    raise

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        asked = body["messages"][-1]["content"] if "messages" in body else str(body["prompt"])
        question = asked.rpartition("Question: ")[2]
        with self._lock:
            attempt = self._attempts[question]
            self._attempts[question] += 1
            self.seen.append(question)
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
            self.times.append(time.monotonic())
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            how = self.behave(question, attempt) if self.count(body) is not None else "400"
            self._behave(request, how, question, body)
        except OSError:
            pass  # the client went away
        finally:
            with self._lock:
                self._now -= 1

    def _behave(self, request: BaseHTTPRequestHandler, how: str, question: str, body: dict) -> None:
        said = self.reply(question)
        choice = {"message": {"role": "assistant", "content": said}, "text": said, "finish_reason": self.finish}
        usage = {"prompt_tokens": self.count(body), "completion_tokens": 3}
        choices = {"no choices": [], "two choices": [choice, choice], "null": [{"message": {"content": None}}]}
        data = json.dumps({"choices": choices.get(how, [choice]), "usage": usage}).encode()
        status, _, after = how.partition("/")
        if status.isdigit():
            data = self.error.encode()
        if how == "reset":
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True
            return
        request.send_response(int(status) if status.isdigit() else 200)
        request.send_header("Content-Length", str(len(data) + 50 * (how == "short")))
        if after:
            request.send_header("Retry-After", after)
        request.end_headers()
        if how == "drip":
            for byte in data:
                request.wfile.write(bytes([byte]))
                request.wfile.flush()
                time.sleep(0.1)
        request.wfile.write(b"{not json".ljust(len(data)) if how == "not json" else data)
        request.close_connection = how == "short"

"""Questions to a model answerer over HTTP, against a server on this machine: how many one core asks per second.

The server is another process that answers at once, so what is measured is this side alone: prompts, the cache in
sqlite, the client, and the reading of replies. `per_cpu_second` is questions per second of this process's CPU time,
which other processes on the machine do not change much; `per_second` is by the clock. Each run asks every question
once; `again` asks the same ones, all from the cache. The figures are medians of the repeats.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from finemem_jax.answerers._model import ModelAnswerer, open_endpoint
from finemem_jax.config import AnswererConfig
from finemem_jax.types import Answerer, AnswerRequest, Retrieved

_ITEM = "on day {} Maya said that her dentist is Orlov, whose house by the sea is {} minutes away"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--questions", type=int, default=5000, help="per repeat (default: %(default)s)")
    parser.add_argument("--items", type=int, default=5, help="retrieved for each (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=5, help="asked at once, as a step does (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="(default: %(default)s)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(there,), daemon=True)
    server.start()
    try:
        port = here.recv()
        measured = [_measure(args, port, repeat) for repeat in range(args.repeats)]
    finally:
        server.terminate()
        server.join()
    names = ("asked", "again")
    return {
        "questions": args.questions,
        "concurrency": args.concurrency,
        "repeats": args.repeats,
        **{
            name: {key: statistics.median(m[name][key] for m in measured) for key in measured[0][name]}
            for name in names
        },
    }


def _measure(args: argparse.Namespace, port: int, repeat: int) -> dict[str, dict[str, float]]:
    requests = [
        AnswerRequest(f"where does dentist {i} of repeat {repeat} live?", _items(i, args.items))
        for i in range(args.questions)
    ]
    with tempfile.TemporaryDirectory() as folder:
        cfg = AnswererConfig(
            name="endpoint",
            url=f"http://127.0.0.1:{port}/v1",
            model="m",
            key_variable="",
            concurrency=args.concurrency,
            cache=str(Path(folder) / "answers.sqlite"),
        )
        answerer = ModelAnswerer(open_endpoint(cfg))
        asked = _timed(lambda: _ask(answerer, requests, args.batch), len(requests))
        return {"asked": asked, "again": _timed(lambda: _ask(answerer, requests, args.batch), len(requests))}


def _items(number: int, count: int) -> tuple[Retrieved, ...]:
    return tuple(Retrieved(f"#{i}", i, (i,), _ITEM.format(number, i), 1.0) for i in range(count))


def _ask(answerer: Answerer, requests: Sequence[AnswerRequest], batch: int) -> None:
    """All of them, `batch` at a time, without waiting in between: as the episodes of a step do."""
    futures = [f for i in range(0, len(requests), batch) for f in answerer.submit(requests[i : i + batch])]
    if any(future.result().text is None for future in futures):
        raise RuntimeError("the benchmark's own server left questions without an answer")


def _timed(work: Callable[[], None], questions: int) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"per_cpu_second": questions / cpu, "per_second": questions / wall, "cpu_ms_each": 1e3 * cpu / questions}


# --------------------------------------------------------------------------------------------------------------
# The server
# --------------------------------------------------------------------------------------------------------------


def _serve(parent: Connection) -> None:
    """Answers every POST at once, on a port that it tells its parent."""

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0)
        parent.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


class _Server(asyncio.Protocol):
    """Just enough HTTP: the length of the body, and an answer of a fixed one."""

    _body = json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "by the sea"}, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": 120, "completion_tokens": 4, "total_tokens": 124},
        }
    ).encode()
    _reply = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(_body),
        _body,
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._received = transport, b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(self._received) < end + 4 + length:
                return
            self._received = self._received[end + 4 + length :]
            self._transport.write(self._reply)

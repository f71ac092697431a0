"""The real mem0ai package against a real HTTP server: `pip install finemem_jax[mem0]`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from finemem_jax.baselines import mem0ai
from finemem_jax.config import AnswererConfig, Config, PromptConfig, UserError, resolve
from finemem_jax.evaluate import evaluate_script
from finemem_jax.types import MemoryItem, Operation
from tests import fakes
from tests.manager.test_commands import EXPECTED, as_mem0_is_used

# Looked for and not imported: what it sends home is switched off before it is
needs_package = pytest.mark.skipif(importlib.util.find_spec("mem0") is None, reason="mem0ai is not installed")

A, B, C = (MemoryItem(f"#{i}", text, 0) for i, text in enumerate(("a is b", "c is d", "e is f"), 1))


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({}, {"x": "a is b", "y": "c is d"}, [("insert", "a is b"), ("insert", "c is d")]),
        ({"x": A.text, "y": B.text}, {"x": "a is z", "y": B.text}, [("update", "a is z", "#1")]),
        ({"x": A.text, "y": B.text}, {"y": B.text}, [("delete", "#1")]),
        ({"x": A.text}, {"x": A.text, "z": C.text}, [("insert", "e is f")]),
        ({"x": A.text}, {"z": A.text}, []),  # another name for the same text
        ({"x": "refused"}, {"x": "refused"}, []),  # what memory did not take, a duplicate, is not offered again
        ({"x": "refused"}, {"x": "another"}, [("insert", "another")]),
    ],
)
def test_its_store_is_mirrored(before, now, expected):
    items = [item for item in (A, B) if item.text in before.values()]
    found = mem0ai.mirrored(before, now, items)
    names = ("content", "id")
    assert [(o.name[7:], *(o.arguments[n] for n in names if n in o.arguments)) for o in found] == expected
    assert all(isinstance(operation, Operation) and not operation.error for operation in found)


@needs_package
def test_without_a_server_it_ends_in_one_line():
    with pytest.raises(UserError, match=r"needs a server: set config\.answerer\.name=endpoint"):
        mem0ai.open_store(Config())


class _Server(BaseHTTPRequestHandler):
    """/chat/completions extracts every line with the word `fact`; /embeddings is a bag of hashed words."""

    fact = " lives in "

    limits: ClassVar[list] = []  # what was asked with: the most tokens of a reply

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/embeddings"):
            given = body["input"] if isinstance(body["input"], list) else [body["input"]]
            data = [{"object": "embedding", "index": i, "embedding": _vector(text)} for i, text in enumerate(given)]
            reply = {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
        else:
            self.limits.append(body["max_tokens"])
            new = body["messages"][-1]["content"].rpartition("New Messages")[2]
            facts = [line.split(":")[-1].strip(' ",') for line in new.splitlines() if self.fact in line]
            content = json.dumps({"memory": [{"text": fact} for fact in facts]})
            message = {"role": "assistant", "content": content}
            usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
            reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "usage": usage}
            reply["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def _vector(text):
    vector = [0.01] * 16
    for word in text.lower().split():
        vector[hashlib.md5(word.encode()).digest()[0] % 16] += 1.0
    return vector


@contextlib.contextmanager
def stand_in(handler=_Server):
    """(settings of an endpoint) of a server on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        written = PromptConfig(max_completion_tokens=321)
        yield Config(answerer=AnswererConfig(name="endpoint", url=url, model="m"), prompt=written)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
@needs_package
def test_the_real_package_writes_through_its_public_api(env):
    _Server.limits.clear()
    with stand_in() as cfg:
        said = resolve("finemem_jax.baselines", "mem0ai").contestant(cfg)
        told = fakes.episode(
            ["Maya lives in Oslo.", "It rained.", "Leo lives in Rome."], [("where does Leo live?", "Rome")]
        )
        answerer = resolve("finemem_jax.answerers", "extractive").create(cfg.answerer)
        (rollout,) = evaluate_script(said, env, answerer, [told])
    assert sorted(item.text for item in rollout.memory.items) == ["Leo lives in Rome.", "Maya lives in Oslo."]
    assert [step.operations[0].name for step in rollout.steps] == ["memory_insert", "memory_skip", "memory_insert"]
    assert _Server.limits == [321] * 3
    assert "Leo lives in Rome." in [item.text for item in rollout.final_answers[0].retrieved]


class _KeepsAll(_Server):
    fact = "."


@pytest.mark.slow
@needs_package
def test_a_program_written_for_mem0_sees_the_same_of_the_package_and_of_ours():
    """tests/manager/test_commands.py runs the program against ours, and expects the same."""
    with stand_in(_KeepsAll) as cfg:
        memory = mem0ai.open_store(cfg)
        found = as_mem0_is_used(memory, lambda memory, query, filters: memory.search(query, filters=filters, top_k=3))
    assert found == EXPECTED

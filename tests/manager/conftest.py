"""An exported folder of a policy that a script plays: behind a server, it keeps every line of the chunk it is shown."""

from __future__ import annotations

import json
import re

import pytest

from finemem_jax.config import MemoryConfig, PromptConfig, RetrievalConfig, resolve, to_dict
from finemem_jax.env import operations
from finemem_jax.env.settings import FILE, SCHEMA, Chunking, PolicySettings
from finemem_jax.types import Operation
from tests.fake_server import FakeServer

SETTINGS = PolicySettings(
    memory=MemoryConfig(max_operations=8),
    prompt=PromptConfig(name="compact", max_prompt_tokens=400, max_completion_tokens=200),
    retrieval=RetrievalConfig(k=2),
    chunking=Chunking(tokens=64, layout="lines"),
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, tiny_tokenizer):
    path = tmp_path_factory.mktemp("policy")
    tiny_tokenizer.save_pretrained(path)
    (path / FILE).write_text(json.dumps({"schema": SCHEMA, **to_dict(SETTINGS)}))
    return path


@pytest.fixture
def server(tiny_tokenizer):
    """A model that inserts every line of the chunk; `server.shown` are the prompts it was asked with."""
    specs = resolve("finemem_jax.memory", "flat").SPECS

    def write(prompt: str) -> str:
        text = tiny_tokenizer.decode(json.loads(prompt))
        fake.shown.append(text)
        fake.hook(text)
        chunk = re.search(r"<chunk>\n(.*?)\n</chunk>", text, re.DOTALL)
        lines = chunk.group(1).splitlines() if chunk else []
        written = [Operation("memory_insert", {"content": line}) for line in lines if line.strip()]
        return operations.emit(written, "qwen", specs)

    with FakeServer() as fake:
        fake.shown, fake.hook, fake.reply = [], lambda text: None, write
        fake.count = lambda body: len(body["prompt"]) if isinstance(body.get("prompt"), list) else None
        yield fake

"""The installed `mem0ai` package itself, driven through its public API (`pip install finemem_jax[mem0]`).

It talks to the server of `config.answerer` (url, model, key) and embeds with the folder `config.retrieval.model`, or,
without one, with that server's /embeddings. Every chunk goes through `Memory.add`, and what its store holds then is
mirrored in a flat memory: items that came, changed or went. So what is written is the package's own, and questions are
answered from the config's retrieval, as for every other contestant; the package's own search is not used. Each episode
has a store of its own, in a temporary folder. Telemetry is switched off.

Its instructions alone are about 8,700 tokens, which the server's model must be able to read. A reply has at most
`config.prompt.max_completion_tokens`; one that is not JSON adds nothing, and the turn counts as skipped. The package
makes its calls by itself: they are not counted, and those of a block of episodes that was killed are made again
(`config.eval.block=1` loses least).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finemem_jax.baselines._contestant import Contestant, without_limits
from finemem_jax.baselines._scripted import SKIP, chunk_text, insert, update
from finemem_jax.config import AnswererConfig, Config, UserError
from finemem_jax.types import Episode, MemoryItem, Operation, Turn

REQUIRES = "mem0"  # the package whose absence ends it in one line, when it is to write
_MOST = 100_000  # memories of one episode that are listed


def contestant(cfg: Config) -> Contestant:
    return Contestant(without_limits(cfg), _Mirror(cfg), by_server=True)


class _Mirror:
    """One store per episode, opened at its first chunk."""

    def __init__(self, cfg: Config):
        self._cfg = cfg
        self._store: Any = None
        self._names: dict[str, str] = {}  # the package's id of a memory -> what it said when it was mirrored
        self._opened = ""  # id of the episode

    def __call__(self, episode: Episode, turn: Turn) -> Sequence[Operation]:
        if turn.chunk == 0 or self._opened != episode.id:
            self._store, self._names, self._opened = open_store(self._cfg), {}, episode.id
        self._store.add(chunk_text(episode, turn), user_id=episode.id)
        listed = self._store.get_all(filters={"user_id": episode.id}, top_k=_MOST)["results"]
        now = {str(entry["id"]): str(entry["memory"]) for entry in listed}
        operations = mirrored(self._names, now, turn.memory.items)
        self._names = now
        return operations or [SKIP]


def mirrored(before: Mapping[str, str], now: Mapping[str, str], items: Sequence[MemoryItem]) -> list[Operation]:
    """The operations that make a memory of the texts `before` one of the texts `now`, both by the package's ids."""
    by_text = {item.text: item for item in items}
    operations = []
    for name, text in before.items():
        if text in by_text and text not in now.values():
            new = now.get(name)
            operations.append(
                Operation("memory_delete", {"id": by_text[text].id}) if new is None else update(by_text[text], new)
            )
    updated = {now[name] for name, text in before.items() if name in now and text in by_text}
    offered = {*by_text, *updated, *(text for name, text in before.items() if now.get(name) == text)}
    return operations + [insert(text) for text in dict.fromkeys(now.values()) if text not in offered]


def open_store(cfg: Config) -> Any:
    """An empty `mem0.Memory` on the config's server. Raises UserError where the package or the server is missing."""
    os.environ.setdefault("MEM0_TELEMETRY", "False")  # read when it is imported
    os.environ.setdefault("MEM0_DIR", tempfile.mkdtemp(prefix="mem0-"))
    try:
        from mem0 import Memory
    except ImportError as error:
        raise UserError(
            f"config.eval.baselines=mem0ai needs the package mem0ai: pip install finemem_jax[mem0] ({error})"
        ) from error
    server = cfg.answerer
    if server.name != "endpoint" or not server.url or not server.model:
        raise UserError(
            "config.eval.baselines=mem0ai needs a server: set config.answerer.name=endpoint, config.answerer.url and "
            "config.answerer.model"
        )
    key = os.environ.get(server.key_variable) or "none"
    embedder, dimensions = _embedder(cfg, server, key)
    return Memory.from_config(
        {
            "llm": {
                "provider": "openai",
                "config": {
                    "model": server.model,
                    "openai_base_url": server.url,
                    "api_key": key,
                    "temperature": server.temperature,
                    "max_tokens": cfg.prompt.max_completion_tokens,
                },
            },
            "embedder": embedder,
            "vector_store": {
                "provider": "qdrant",
                "config": {
                    "collection_name": "episode",
                    "embedding_model_dims": dimensions,
                    "path": tempfile.mkdtemp(prefix="mem0-store-"),
                },
            },
            "history_db_path": ":memory:",
        }
    )


def _embedder(cfg: Config, server: AnswererConfig, key: str) -> tuple[dict[str, Any], int]:
    """Its settings, and how long its vectors are."""
    if cfg.retrieval.model:
        from finemem_jax.env.dense import load_encoder

        width = load_encoder(cfg.retrieval.model).embed(["width"]).shape[1]
        return {"provider": "huggingface", "config": {"model": cfg.retrieval.model}}, width
    from openai import OpenAI

    client: Callable = OpenAI(base_url=server.url, api_key=key).embeddings.create
    width = len(client(model=server.model, input=["width"]).data[0].embedding)
    settings = {"model": server.model, "openai_base_url": server.url, "api_key": key, "embedding_dims": width}
    return {"provider": "openai", "config": settings}, width

"""The last `config.eval.recent_k` chunks as they stand; the answerer sees all of them."""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.baselines._contestant import Contestant, Writer, reading, without_limits
from finemem_jax.baselines._scripted import chunk_as_item
from finemem_jax.config import Config
from finemem_jax.types import Episode, Operation, Turn


def contestant(cfg: Config) -> Contestant:
    return Contestant(reading(without_limits(cfg), select="all"), recent_chunks(cfg.eval.recent_k))


def recent_chunks(count: int) -> Writer:
    def write(episode: Episode, turn: Turn) -> Sequence[Operation]:
        gone = turn.memory.items[: max(len(turn.memory.items) - count + 1, 0)]
        return [*(Operation("memory_delete", {"id": item.id}) for item in gone), *chunk_as_item(episode, turn)]

    return write

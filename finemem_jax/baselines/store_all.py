"""Every line of a chunk is an item, a `Label:` line with the one it labels, without write limits."""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.baselines._contestant import Contestant, without_limits
from finemem_jax.baselines._scripted import chunk_lines, insert
from finemem_jax.config import Config
from finemem_jax.types import Episode, Operation, Turn


def contestant(cfg: Config) -> Contestant:
    return Contestant(without_limits(cfg), write)


def write(episode: Episode, turn: Turn) -> Sequence[Operation]:
    items: list[str] = []
    for line in chunk_lines(episode, turn):
        if items and line.lower().startswith(("label:", "labels:")):
            items[-1] += f"\n{line}"
        else:
            items.append(line)
    return [insert(item) for item in items]

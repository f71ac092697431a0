"""Nothing is kept: what the answerer knows without memory."""

from __future__ import annotations

from collections.abc import Sequence

from finemem_jax.baselines._contestant import Contestant, without_limits
from finemem_jax.baselines._scripted import SKIP
from finemem_jax.config import Config
from finemem_jax.types import Episode, Operation, Turn


def contestant(cfg: Config) -> Contestant:
    return Contestant(without_limits(cfg), write)


def write(episode: Episode, turn: Turn) -> Sequence[Operation]:
    return [SKIP]

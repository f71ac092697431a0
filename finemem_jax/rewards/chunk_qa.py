"""r_chunk(t), the Chunk-level Step Reward: accuracy on the questions about chunk t, answered right after its turn."""

from __future__ import annotations

import numpy as np

from finemem_jax.config import RewardsConfig
from finemem_jax.types import WRITE, CountTokens, Rollout

ROLES, LEVEL = (WRITE,), "turn"

ASKS_CHUNK_QUESTIONS = True  # the environment asks them only when a term that reads them has a weight


def turn_rewards(rollout: Rollout, cfg: RewardsConfig, count_tokens: CountTokens) -> np.ndarray:
    """[writing turns] in [0, 1], over the questions that were answered; NaN (missing, not 0) where none was.

    A chunk without questions gives 0 to every sample alike, hence no advantage.
    """
    about: dict[int | None, list[float | None]] = {}
    for answer in rollout.answers:
        about.setdefault(answer.chunk, []).append(answer.score)
    return np.array([_accuracy(about.get(turn.chunk, [])) for turn in rollout.of(WRITE)], dtype=np.float64)


def _accuracy(scores: list[float | None]) -> float:
    answered = [score for score in scores if score is not None]
    if not answered:
        return np.nan if scores else 0.0
    return float(np.mean(answered))

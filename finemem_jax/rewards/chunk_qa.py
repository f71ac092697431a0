"""r_chunk(t), the Chunk-level Step Reward: accuracy on the questions about chunk t, answered right after its step."""

from __future__ import annotations

import numpy as np

from finemem_jax.config import RewardsConfig
from finemem_jax.types import CountTokens, Rollout

ASKS_CHUNK_QUESTIONS = True  # the environment asks them only when a term that reads them has a weight


def step_rewards(rollout: Rollout, cfg: RewardsConfig, count_tokens: CountTokens) -> np.ndarray:
    """[steps] in [0, 1], over the questions that were answered; NaN (missing, not 0) where the answerer failed on all.

    A chunk without questions gives 0 to every sample alike, hence no advantage.
    """
    scores: list[list[float | None]] = [[] for _ in rollout.steps]
    for answer in rollout.answers:
        if answer.step is not None:
            scores[answer.step].append(answer.score)
    return np.array([_accuracy(of_step) for of_step in scores], dtype=np.float64)


def _accuracy(scores: list[float | None]) -> float:
    answered = [score for score in scores if score is not None]
    if not answered:
        return np.nan if scores else 0.0
    return float(np.mean(answered))

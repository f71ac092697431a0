"""r_chunk(t), the Chunk-level Step Reward: accuracy on the questions about chunk t, answered right after its step."""

from __future__ import annotations

import numpy as np

from finemem_jax.config import RewardsConfig
from finemem_jax.types import CountTokens, Rollout

ASKS_CHUNK_QUESTIONS = True  # the environment asks them only when a term that reads them has a weight


def step_rewards(rollout: Rollout, cfg: RewardsConfig, count_tokens: CountTokens) -> np.ndarray:
    """[steps] in [0, 1]; NaN (missing, not 0) where the answerer failed on a question of the step.

    A chunk without questions gives 0 to every sample alike, hence no advantage.
    """
    scores: list[list[float]] = [[] for _ in rollout.steps]
    for answer in rollout.answers:
        if answer.step is not None:
            scores[answer.step].append(np.nan if answer.score is None else answer.score)
    return np.array([np.mean(s) if s else 0.0 for s in scores], dtype=np.float64)

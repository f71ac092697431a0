"""Fine-Mem's credit: a turn is compared with the same turn of the group's other samples (arXiv 2601.08435, GRPO over
steps)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from finemem_jax.config import AdvantageConfig
from finemem_jax.env.credit import centred, complete
from finemem_jax.env.turns import Turns, step_keys, totals

BY_INDEX = True


def keys(turns: Turns) -> np.ndarray:
    """[turns]: one key per group, role and running number."""
    return step_keys(turns)


def advantages(turns: Turns, weights: Mapping[str, float], cfg: AdvantageConfig) -> np.ndarray:
    """[turns]: the weighted terms, centred over the samples at the same turn; NaN where any of them is missing."""
    together = keys(turns)
    rewards = complete(totals(turns, weights), together)
    return centred(rewards, together, std=cfg.std, eps=cfg.eps, min_std=cfg.min_std)

"""Which groups of a training step are recorded for people to look at (config.train.log_rollouts, log_rule)."""

from __future__ import annotations

import random

import numpy as np

from finemem_jax.config import Config
from finemem_jax.env.turns import Turns, totals


def recorded_groups(cfg: Config, step: int, turns: Turns) -> list[int]:
    """Their numbers, ascending, at most config.train.log_rollouts; a function of the config and the step's rewards."""
    groups = int(turns.group.max()) + 1 if len(turns) else 0
    most, rule = min(cfg.train.log_rollouts, groups), cfg.train.log_rule
    if rule == "random":
        return sorted(random.Random(f"recorded {cfg.seed} {step}").sample(range(groups), most))
    if rule == "first":
        return list(range(most))
    apart = spreads(turns, totals(turns, cfg.rewards.weights), groups)
    return sorted(sorted(range(groups), key=lambda g: (-apart[g], g))[:most])


def spreads(turns: Turns, rewards: np.ndarray, groups: int) -> list[float]:
    """Of each group the largest difference between the rewards of its samples at the same turn; 0 where it has none.

    rewards: [turns], NaN where missing."""
    found = [0.0] * groups
    known = ~np.isnan(rewards)
    for g in range(groups):
        of_group = known & (turns.group == g)
        for index in np.unique(turns.index[of_group]):
            at = rewards[of_group & (turns.index == index)]
            found[g] = max(found[g], float(at.max() - at.min()))
    return found

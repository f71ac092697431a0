"""Advantages: each sample's reward at step t against its group's at the same step."""

from __future__ import annotations

import numpy as np


def group_advantages(
    rewards: np.ndarray, *, std: str = "sample", eps: float = 1e-6, min_std: float = 0.0
) -> np.ndarray:
    """Advantage of each sample relative to its group at the same step.

    rewards: [groups, samples, steps], NaN where a sample has no such step or its reward is missing.
    Returns the same shape, unitless: (r - mean) / (max(deviation, min_std) + eps) over the samples that have the
    step, with the sample deviation (ddof 1); r - mean for std="none" (Dr.GRPO); NaN where the reward is NaN.

    Exactly 0 where the group has no spread, and for a group of one, so that such rows carry no gradient. The
    spread is tested by comparison, not by the deviation: the mean of eight equal rewards of 0.7 is off by a
    rounding error, which division by that same error's deviation would turn into a real advantage (0.06 in
    float32). The arithmetic is float64 for the same reason.

    min_std: floor under the deviation, so that a spread of no importance (a memory one token shorter) does not
    become an advantage of full size.
    """
    if std not in ("sample", "none"):
        raise ValueError(f"advantage.std={std!r}: allowed are sample, none")
    rewards = np.asarray(rewards)
    values = rewards.astype(np.float64)
    present = ~np.isnan(values)
    count = present.sum(axis=1, keepdims=True)
    mean = np.where(present, values, 0.0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    centred = np.where(present, values - mean, 0.0)
    if std == "sample":
        variance = (centred**2).sum(axis=1, keepdims=True) / np.maximum(count - 1, 1)
        advantages = centred / (np.maximum(np.sqrt(variance), min_std) + eps)
    else:
        advantages = centred
    highest = np.where(present, values, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    lowest = np.where(present, values, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    advantages = np.where(highest > lowest, advantages, 0.0)
    dtype = rewards.dtype if np.issubdtype(rewards.dtype, np.floating) else np.float64
    return np.where(present, advantages, np.nan).astype(dtype)

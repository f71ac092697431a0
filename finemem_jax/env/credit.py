"""Advantages: each value against those it is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def centred(
    values: np.ndarray,
    keys: Sequence[tuple[int, ...]] | np.ndarray,
    *,
    std: str = "sample",
    eps: float = 1e-6,
    min_std: float = 0.0,
) -> np.ndarray:
    """Advantage of every value relative to those with the same key.

    values: [turns], NaN where there is none. keys: [turns] ints, or a tuple of ints per turn.
    Returns [turns], unitless: (v - mean) / (max(deviation, min_std) + eps) over the values of the key, with the sample
    deviation (ddof 1); v - mean for std="none" (Dr.GRPO); NaN where the value is NaN.

    Exactly 0 where the values of a key have no spread, and for a value alone, so that such rows carry no gradient. The
    spread is tested by comparison, not by the deviation: the mean of eight equal rewards of 0.7 is off by a
    rounding error, which division by that same error's deviation would turn into a real advantage (0.06 in
    float32). The arithmetic is float64 for the same reason.

    min_std: floor under the deviation, so that a spread of no importance (a memory one token shorter) does not
    become an advantage of full size.

    Example: values [1, 0, 5], keys [(0, 0), (0, 0), (0, 1)], std "none": [0.5, -0.5, 0].
    """
    if std not in ("sample", "none"):
        raise ValueError(f"advantage.std={std!r}: allowed are sample, none")
    given = np.asarray(values)
    values = given.astype(np.float64)
    keys = numbered(keys)
    if keys.shape != values.shape:
        raise ValueError(f"{len(values)} values, but {len(keys)} keys")
    present = ~np.isnan(values)
    groups = int(keys.max()) + 1 if len(keys) else 0

    def summed(of_turns: np.ndarray) -> np.ndarray:
        return np.bincount(keys, weights=of_turns, minlength=groups)

    count = summed(present)
    mean = summed(np.where(present, values, 0.0)) / np.maximum(count, 1)
    advantages = np.where(present, values - mean[keys], 0.0)
    if std == "sample":
        variance = summed(advantages**2) / np.maximum(count - 1, 1)
        advantages = advantages / (np.maximum(np.sqrt(variance), min_std) + eps)[keys]
    highest, lowest = np.full(groups, -np.inf), np.full(groups, np.inf)
    np.maximum.at(highest, keys[present], values[present])
    np.minimum.at(lowest, keys[present], values[present])
    advantages = np.where((highest > lowest)[keys], advantages, 0.0)
    dtype = given.dtype if np.issubdtype(given.dtype, np.floating) else np.float64
    return np.where(present, advantages, np.nan).astype(dtype)


def complete(values: np.ndarray, keys: Sequence[tuple[int, ...]] | np.ndarray) -> np.ndarray:
    """The values, NaN for all of a key where one is: what is compared is compared on the same measurements."""
    keys = numbered(keys)
    lacking = np.bincount(keys, weights=np.isnan(values), minlength=1) > 0
    return np.where(lacking[keys], np.nan, values)


def numbered(keys: Sequence[tuple[int, ...]] | np.ndarray) -> np.ndarray:
    """Keys as numbers from 0, [turns]: equal keys have equal numbers."""
    keys = np.asarray(keys)
    if keys.size == 0:
        return np.zeros(len(keys), np.int64)
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)


def group_advantages(
    rewards: np.ndarray, *, std: str = "sample", eps: float = 1e-6, min_std: float = 0.0
) -> np.ndarray:
    """Advantage of each sample relative to its group at the same step (Fine-Mem): `centred` over columns.

    rewards: [groups, samples, steps], NaN where a sample has no such step or its reward is missing.
    Returns the same shape; NaN where the reward is NaN.
    """
    rewards = np.asarray(rewards)
    groups, samples, steps = rewards.shape
    keys = np.broadcast_to(np.arange(groups)[:, None, None] * steps + np.arange(steps), (groups, samples, steps))
    return centred(rewards.reshape(-1), keys.reshape(-1), std=std, eps=eps, min_std=min_std).reshape(rewards.shape)

"""How sure a mean over instances is: bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def bootstrap_interval(
    values: Sequence[float],
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 2000,
    sources: Sequence[str] | None = None,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean of `values`, one per instance.

    An instance, not a question, is what is drawn again: the questions of one instance stand and fall together with
    its memory. With `sources`, one name per value, it is the interval of the mean over sources of each source's mean,
    and instances are drawn again within their source, as the benchmark fixes how many there are of each.

    level: in (0, 1). A function of its arguments alone, whatever the order of the sources. No values: (nan, nan);
    a source of one instance adds nothing to the width, for nothing is known about its spread.
    """
    if sources is not None and len(sources) != len(values):
        raise ValueError(f"{len(values)} values, {len(sources)} sources")
    if not 0 < level < 1:
        raise ValueError(f"level {level}: must be between 0 and 1")
    if not all(map(math.isfinite, values)):
        raise ValueError("a value is not finite: leave missing scores out")
    if len(values) == 0:
        return math.nan, math.nan
    strata: dict[str, list[float]] = {}
    for source, value in zip(sources or [""] * len(values), values, strict=True):
        strata.setdefault(source, []).append(value)
    rng = np.random.default_rng(seed)
    means = np.zeros(resamples)  # [resamples]
    for _, stratum in sorted(strata.items()):
        drawn = rng.integers(len(stratum), size=(resamples, len(stratum)))
        means += np.asarray(stratum, dtype=np.float64)[drawn].mean(axis=1) / len(strata)
    tail = 50 * (1 - level)
    low, high = np.percentile(means, (tail, 100 - tail))
    return float(low), float(high)


def ratio_interval(
    sums: Sequence[float], counts: Sequence[int], *, seed: int, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of Σ sums / Σ counts, for a mean over the questions of several
    instances: an instance is drawn again with all of its questions.

    sums, counts: of each instance the sum of its scores, and how many there are, at least 1. No instances: (nan, nan).
    """
    if len(sums) == 0:
        return math.nan, math.nan
    drawn = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    means = np.asarray(sums, np.float64)[drawn].sum(axis=1) / np.asarray(counts, np.float64)[drawn].sum(axis=1)
    low, high = np.percentile(means, (50 * (1 - level), 50 * (1 + level)))
    return float(low), float(high)

"""Two policies on the same held-out episodes, with several seeds: what their difference is, and how sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finemem_jax.files import is_number

HELDOUT_SCORES = "heldout_scores.jsonl"  # of every evaluation of a run, the score of each episode


@dataclass(frozen=True, slots=True)
class Scores:
    """Of an evaluation, one entry per episode."""

    episodes: tuple[str, ...]  # ids
    sources: tuple[str, ...]
    scores: tuple[float | None, ...]  # mean over the episode's questions; None: not one was answered


def read_scores(line: Mapping[str, object]) -> Scores | None:
    """Those of a line of heldout_scores.jsonl; None where it is not one."""
    columns = [line.get(name) for name in ("episodes", "sources", "scores")]
    if not all(isinstance(column, list) for column in columns):
        return None
    episodes, sources, scores = (tuple(column) for column in columns if isinstance(column, list))
    is_whole = len(episodes) == len(sources) == len(scores)
    is_known = all(isinstance(text, str) for text in (*episodes, *sources))
    if not (is_whole and is_known and all(score is None or is_number(score) for score in scores)):
        return None
    return Scores(episodes, sources, scores)


def paired_differences(first: Scores | None, second: Scores | None) -> dict[str, np.ndarray]:
    """source -> second minus first, of every episode that both have a score for. Empty where one is missing, or where
    they are not of the same episodes in the same order: nothing can be paired then."""
    if first is None or second is None or first.episodes != second.episodes:
        return {}
    found: dict[str, list[float]] = {}
    for source, a, b in zip(first.sources, first.scores, second.scores, strict=True):
        if a is not None and b is not None:
            found.setdefault(source, []).append(b - a)
    return {source: np.asarray(values, dtype=np.float64) for source, values in sorted(found.items())}


def paired_interval(
    differences: Sequence[Mapping[str, np.ndarray]], *, level: float = 0.95, resamples: int = 4000
) -> tuple[float, float, float]:
    """(mean, low, high): the mean over seeds of the mean over sources of the mean difference, with its percentile
    bootstrap interval: seeds are drawn again and, within each that was drawn and each source, its episodes.

    differences: of each seed, source -> [episodes]; at least one, none empty. The interval holds for other seeds and
    other episodes both; of few seeds it is too narrow, as any bootstrap of few values. A function of its arguments.
    """
    rng = np.random.default_rng(0)
    means = np.zeros((len(differences), resamples))  # of every seed, each time with other episodes
    for means_of_seed, by_source in zip(means, differences, strict=True):
        for values in by_source.values():
            drawn = rng.integers(len(values), size=(resamples, len(values)))
            means_of_seed += values[drawn].mean(axis=1) / len(by_source)
    seeds = rng.integers(len(differences), size=(resamples, len(differences)))
    # A seed that is drawn twice has other episodes each time: every draw takes its own column.
    columns = np.argsort(rng.random((resamples, len(differences))), axis=0)
    drawn_means = means[seeds, columns].mean(axis=1)
    mean = float(np.mean([np.mean([values.mean() for values in by_source.values()]) for by_source in differences]))
    low, high = np.quantile(drawn_means, [(1 - level) / 2, (1 + level) / 2])
    return mean, float(low), float(high)

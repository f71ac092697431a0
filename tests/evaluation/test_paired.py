"""Differences of two policies on the same held-out episodes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from finemem_jax.evaluation.paired import Scores, paired_differences, paired_interval, read_scores


def test_episodes_without_a_score_in_one_of_the_two_are_left_out():
    first = Scores(("a", "b", "c"), ("x", "x", "y"), (0.5, None, 0.25))
    second = Scores(("a", "b", "c"), ("x", "x", "y"), (0.75, 1.0, 0.25))
    found = paired_differences(first, second)
    assert {source: values.tolist() for source, values in found.items()} == {"x": [0.25], "y": [0.0]}
    assert paired_differences(second, first)["x"].tolist() == [-0.25]


@pytest.mark.parametrize("other", [None, Scores(("b", "a"), ("x", "x"), (0.5, 0.5)), Scores(("a",), ("x",), (0.5,))])
def test_other_episodes_cannot_be_paired(other):
    assert paired_differences(Scores(("a", "b"), ("x", "x"), (0.5, 0.5)), other) == {}


@pytest.mark.parametrize(
    "line",
    [
        {},
        {"episodes": ["a"], "sources": ["x"], "scores": [0.5, 0.5]},
        {"episodes": ["a"], "sources": ["x"], "scores": ["0.5"]},
        {"episodes": [1], "sources": ["x"], "scores": [0.5]},
    ],
)
def test_a_line_that_is_no_scores_is_none(line):
    assert read_scores(line) is None


def test_the_mean_is_over_seeds_of_the_mean_over_sources():
    of_seeds = [{"x": np.array([0.0, 1.0]), "y": np.array([0.5])}, {"x": np.array([0.25])}]
    mean, low, high = paired_interval(of_seeds)
    assert mean == pytest.approx((0.5 + 0.25) / 2)
    assert low < mean < high


def test_the_interval_is_that_of_seeds_and_episodes_together():
    """Against the normal approximation of the two variances: of the seeds' own differences, and of the episodes."""
    rng = np.random.default_rng(1)
    seeds, episodes = 40, 50
    drawn = rng.normal(0.1, 0.05, (seeds, 1)) + rng.normal(0, 0.3, (seeds, episodes))
    mean, low, high = paired_interval([{"x": values} for values in drawn])
    # The variance of the means of the seeds holds that of their episodes once, the draw within a seed adds it again.
    variance = (drawn.mean(1).var() + (drawn.var(1) / episodes).mean()) / seeds
    half = stats.norm.ppf(0.975) * np.sqrt(variance)
    assert mean == pytest.approx(drawn.mean())
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)


def test_seeds_that_disagree_make_it_wide_though_their_episodes_agree():
    alike = [{"x": np.full(100, 0.1)}] * 3
    apart = [{"x": np.full(100, value)} for value in (-0.2, 0.1, 0.4)]
    assert paired_interval(alike)[1:] == pytest.approx((0.1, 0.1))
    _, low, high = paired_interval(apart)
    assert low < -0.1 and high > 0.3

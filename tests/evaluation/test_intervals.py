"""Bootstrap intervals: they cover what they say, and resample instances within their source."""

import math
import random

import pytest

from finemem_jax.evaluation.intervals import bootstrap_interval


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = random.Random(0)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval([rng.gauss(0.3, 0.2) for _ in range(60)], seed=trial, level=0.9, resamples=400)
        covered += low <= 0.3 <= high
    assert 168 <= covered <= 192  # 180 expected, standard deviation 4.2


def test_its_width_is_that_of_the_normal_approximation():
    values = [i / 99 for i in range(100)]
    low, high = bootstrap_interval(values, seed=1, resamples=20_000)
    error = math.sqrt(sum((v - 0.5) ** 2 for v in values) / 100) / 10
    assert (low, high) == pytest.approx((0.5 - 1.96 * error, 0.5 + 1.96 * error), abs=0.004)


def test_sources_count_equally_and_are_resampled_within():
    values, sources = [1.0] * 90 + [0.0] * 10, ["a"] * 90 + ["b"] * 10
    assert bootstrap_interval(values, seed=0, sources=sources) == (0.5, 0.5)
    low, high = bootstrap_interval(values, seed=0)
    assert 0.8 < low < 0.9 < high < 1.0


def test_it_is_a_function_of_values_and_seed():
    values, sources = [0.1, 0.9, 0.4, 0.7, 0.2], ["a", "b", "a", "b", "a"]
    first = bootstrap_interval(values, seed=3, sources=sources)
    swapped = [values[i] for i in (1, 3, 0, 2, 4)], ["b", "b", "a", "a", "a"]
    assert bootstrap_interval(swapped[0], seed=3, sources=swapped[1]) == first
    many = [i / 99 for i in range(100)]
    assert bootstrap_interval(many, seed=3) == bootstrap_interval(many, seed=3) != bootstrap_interval(many, seed=4)


def test_edges():
    assert all(map(math.isnan, bootstrap_interval([], seed=0)))
    assert bootstrap_interval([0.25], seed=0) == (0.25, 0.25)
    with pytest.raises(ValueError, match="not finite"):
        bootstrap_interval([0.5, math.nan], seed=0)
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([0.5], seed=0, level=95)
    with pytest.raises(ValueError, match="2 values, 1 sources"):
        bootstrap_interval([0.5, 1.0], seed=0, sources=["a"])
